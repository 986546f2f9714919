"""Checkpoints: a directory each, whole or not there at all, with a card that says what it is.

    DIR/step-00000592/
        state/       parameters, optimisers' state and step, by Orbax
        card.json    configuration, data, figures, commit, and a digest of the state
        card.md      the same for readers

A checkpoint is written under another name and then renamed, so that one that was cut off is never taken for one. What
is read back is compared with the digest: damage is refused, not served.
"""

import re
import shutil
from pathlib import Path
from typing import Any, Final

import jax
import msgspec
import orbax.checkpoint as ocp

from phoenix.models.parameters import digest
from phoenix.serving.engine import Phoenix
from phoenix.training.model_card import FORMAT, Card, CheckpointError, markdown
from phoenix.training.step import State, Trainer

_STEP: Final = re.compile(r"step-\d{8,}")
_OTHER_MODELS: Final = "its models are not those of this program"
_STATE, _CARD, _READABLE = "state", "card.json", "card.md"


def save(directory: Path, state: State, card: Card) -> Path:
    """Write a checkpoint; returns where it is. One of the same step is left as it is."""
    final = directory / f"step-{card.step:08}"
    if final.exists():
        return final
    unfinished = final.with_name(f"{final.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    held = jax.device_get(state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((unfinished / _STATE).absolute(), held)
    whole = msgspec.structs.replace(card, digest=digest(held))
    (unfinished / _READABLE).write_text(markdown(whole))
    (unfinished / _CARD).write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n")
    return unfinished.rename(final)


def forget_all_but(directory: Path, keep: int) -> None:
    """Remove all checkpoints but those of the latest `keep` steps, and what was never finished."""
    for path in [*_finished(directory)[:-keep], *directory.glob("step-*.unfinished")]:
        shutil.rmtree(path)


def newest(directory: Path) -> Path | None:
    """The checkpoint of the latest step; None where there is none. A checkpoint itself is its own newest."""
    if (directory / _CARD).is_file():
        return directory
    return next(reversed(_finished(directory)), None)


def _finished(directory: Path) -> list[Path]:
    """The checkpoints in a directory, by step."""
    found = [path for path in directory.glob("step-*") if _STEP.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name[len("step-") :]))


def card_of(checkpoint: Path) -> Card:
    """What a checkpoint is; raises CheckpointError where it cannot be told."""
    try:
        raw = (checkpoint / _CARD).read_bytes()
        found = msgspec.json.decode(raw)
        if found.get("format") != FORMAT:
            raise CheckpointError(f"{checkpoint} is of format {found.get('format')}; this program reads {FORMAT}")
        return msgspec.json.decode(raw, type=Card)
    except OSError as error:
        raise CheckpointError(f"{checkpoint} is no checkpoint: {_CARD} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint} is damaged: {_CARD}: {error}") from None


def restore(checkpoint: Path) -> tuple[State, Card]:
    """Read a checkpoint back.

    Raises:
        CheckpointError: it is damaged, or was written by a program whose models were others.

    """
    card = card_of(checkpoint)
    wanted = Trainer(card.model, card.training, card.steps).abstract()
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            state: State = checkpointer.restore((checkpoint / _STATE).absolute(), wanted)
    except Exception as error:  # of whatever type: Orbax and what it stands on document none
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{checkpoint} is damaged, or {_OTHER_MODELS}: {reason}") from error
    if jax.tree.map(_form, state) != jax.tree.map(_form, wanted):  # which Orbax does not look at
        raise CheckpointError(f"{checkpoint} cannot be used: {_OTHER_MODELS}")
    if digest(state) != card.digest:
        raise CheckpointError(f"{checkpoint} is damaged: what it holds is not what was written")
    return state, card


def resume(checkpoint: Path, wanted: Card) -> State:
    """The state to go on from.

    Args:
        checkpoint: of a run that was cut off.
        wanted: the card that the run would write now.

    Raises:
        CheckpointError: the checkpoint is of another run: of another configuration, or other data.

    """
    found = card_of(checkpoint)
    for name in ("model", "training", "data", "steps"):
        mine, its = msgspec.to_builtins(getattr(wanted, name)), msgspec.to_builtins(getattr(found, name))
        if mine != its:
            raise CheckpointError(f"{checkpoint} is of another run: {_difference(name, its, mine)}")
    return restore(checkpoint)[0]


def phoenix_of(directory: Path) -> Phoenix:
    """The models of a checkpoint, or of the newest in a directory, to be served; raises CheckpointError."""
    checkpoint = newest(directory)
    if checkpoint is None:
        raise CheckpointError(f"{directory} holds no checkpoint")
    state, card = restore(checkpoint)
    return Phoenix(card.model, state.served, f"step{card.step}")


def _form(leaf: Any) -> tuple[tuple[int, ...], str]:
    return leaf.shape, str(leaf.dtype)


def _difference(name: str, its: Any, mine: Any) -> str:
    """The first thing that two runs do not have in common."""
    if isinstance(its, dict) and isinstance(mine, dict):
        key = next(key for key in {**its, **mine} if its.get(key) != mine.get(key))
        return _difference(f"{name}.{key}", its.get(key), mine.get(key))
    return f"{name} is {its}, not {mine}"
