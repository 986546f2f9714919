"""Checkpoints of a training run: one directory each, complete or absent, with a model card.

    DIR/step-00000592/
        state/       parameters, states of the optimisers and step, written by Orbax
        card.json    configuration, data, figures, commit and a digest of the state, for programs
        card.md      the same for readers

`save` writes a checkpoint under a temporary name and renames it, so a killed run leaves no half checkpoint under its
final name. `restore` compares the state with the digest and refuses a damaged one.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import jax
import msgspec
import orbax.checkpoint as ocp

from infra.ports.errors import UsageError
from phoenix.models.configs import ModelConfig, TrainingConfig
from phoenix.models.parameters import digest
from phoenix.serving.engine import Phoenix
from phoenix.training.step import State, Trainer

FORMAT: Final = 3
"""Version of the card and of the state's structure; a program reads its own format only."""
_STEP: Final = re.compile(r"step-\d{8,}")
_OTHER_MODELS: Final = "its models are not those of this program"
_STATE, _CARD, _READABLE = "state", "card.json", "card.md"


class CheckpointError(UsageError, ValueError):
    """A checkpoint cannot be used; the text is one line with its path and the reason."""


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model card of a checkpoint: the facts behind its figures, and all settings that a resumed run must share."""

    format: int = FORMAT
    step: int
    """Steps taken so far."""
    steps: int
    """Steps of the whole run."""
    model: ModelConfig
    training: TrainingConfig
    data: dict[str, Any]
    """Span, times of the labels, size and digest of the training data."""
    commit: str
    figures: dict[str, float] = {}
    digest: str = ""
    """Digest of the state; `save` fills it in."""


def save(directory: Path, state: State, card: Card) -> Path:
    """Write a checkpoint and return its path; an existing checkpoint of the same step stays as it is."""
    final = directory / f"step-{card.step:08}"
    if final.exists():
        return final
    unfinished = final.with_name(f"{final.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    on_host = jax.device_get(state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((unfinished / _STATE).absolute(), on_host)
    whole = msgspec.structs.replace(card, digest=digest(on_host))
    (unfinished / _READABLE).write_text(_markdown(whole))
    (unfinished / _CARD).write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n")
    return unfinished.rename(final)


def prune(directory: Path, keep: int) -> None:
    """Remove all checkpoints but those of the latest `keep` steps, and all unfinished ones."""
    for path in [*_finished(directory)[:-keep], *directory.glob("step-*.unfinished")]:
        shutil.rmtree(path)


def newest(directory: Path) -> Path | None:
    """The checkpoint of the latest step in a directory, or None. For the path of a checkpoint, that path."""
    if (directory / _CARD).is_file():
        return directory
    return next(reversed(_finished(directory)), None)


def _finished(directory: Path) -> list[Path]:
    """The complete checkpoints in a directory, by step."""
    found = [path for path in directory.glob("step-*") if _STEP.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name[len("step-") :]))


def card_of(checkpoint: Path) -> Card:
    """The card of a checkpoint; raises CheckpointError for a missing, damaged or foreign card."""
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
    """Read a checkpoint.

    Raises:
        CheckpointError: the checkpoint is damaged, or a program with other models wrote it.

    """
    card = card_of(checkpoint)
    wanted = Trainer(card.model, card.training, card.steps).abstract()
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            state: State = checkpointer.restore((checkpoint / _STATE).absolute(), wanted)
    except Exception as error:  # of any type: Orbax and the libraries below it document none
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{checkpoint} is damaged, or {_OTHER_MODELS}: {reason}") from error
    if jax.tree.map(_form, state) != jax.tree.map(_form, wanted):  # Orbax does not compare them
        raise CheckpointError(f"{checkpoint} cannot be used: {_OTHER_MODELS}")
    if digest(state) != card.digest:
        raise CheckpointError(f"{checkpoint} is damaged: its state does not have the digest in {_CARD}")
    return state, card


def resume(checkpoint: Path, wanted: Card) -> State:
    """The state of an interrupted run.

    Args:
        checkpoint: a checkpoint of that run.
        wanted: the card of the run that shall continue.

    Raises:
        CheckpointError: the checkpoint belongs to a run of another configuration, or of other data.

    """
    found = card_of(checkpoint)
    for name in ("model", "training", "data", "steps"):
        ours, theirs = msgspec.to_builtins(getattr(wanted, name)), msgspec.to_builtins(getattr(found, name))
        if ours != theirs:
            raise CheckpointError(f"{checkpoint} is of another run: {_difference(name, theirs, ours)}")
    return restore(checkpoint)[0]


def phoenix_of(directory: Path) -> Phoenix:
    """The models of a checkpoint, or of the newest one in a directory, for serving; raises CheckpointError."""
    checkpoint = newest(directory)
    if checkpoint is None:
        raise CheckpointError(f"{directory} holds no checkpoint")
    state, card = restore(checkpoint)
    return Phoenix(card.model, state.served, f"step{card.step}")


def _form(leaf: Any) -> tuple[tuple[int, ...], str]:
    return leaf.shape, str(leaf.dtype)


def _difference(name: str, theirs: Any, ours: Any) -> str:
    """The first setting in which two runs differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        key = next(key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key))
        return _difference(f"{name}.{key}", theirs.get(key), ours.get(key))
    return f"{name} is {theirs}, not {ours}"


def _markdown(card: Card) -> str:
    sections = {
        "Data": card.data,
        "Figures": card.figures,
        "Training": asdict(card.training),
        "Model": asdict(card.model),
    }
    head = (
        f"# {card.model.name}, step {card.step} of {card.steps}\n\n"
        "A ranker and a two-tower retrieval model, trained on a log of impressions and engagements. They learn from\n"
        "hashed ids, hashed text tokens, the history of actions and the counts of posts. No input measures how well a\n"
        "post suits a viewer.\n\n"
        f"Commit `{card.commit}`, digest of the state `{card.digest}`.\n"
    )
    return head + "".join(f"\n## {title}\n\n{_table(values)}" for title, values in sections.items())


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(f"| {name} | {_cell(value)} |\n" for name, value in values.items())
    return f"| | |\n| --- | --- |\n{rows}"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items()) or "none"
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"
