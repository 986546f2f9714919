"""Checkpoints of a training run: one directory each, complete or absent, with a model card.

    DIR/lock             process id of the run that writes here (`phoenix.training.run_lock`)
    DIR/step-00000592/
        state/       parameters, states of the optimisers and step, written by Orbax
        card.json    configuration, data, figures, commit and a digest of the state, for programs
        card.md      the same for readers
        announced    present if the checkpoint was announced: training never removes it

`save` writes a checkpoint to the disk under a temporary name and then renames it, so neither a killed run nor a loss of
power leaves half a checkpoint under its final name. `restore` compares the state with the digest and refuses a damaged
one. The newest checkpoint of a directory is the newest one that is not damaged; an error in the log names the others.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import jax
import msgspec
import orbax.checkpoint as ocp

from infra.ports.errors import UsageError
from phoenix.models.configs import ModelConfig, TrainingConfig
from phoenix.models.parameters import digest, not_finite
from phoenix.serving.engine import Phoenix
from phoenix.training.step import State, Trainer

log = logging.getLogger(__name__)
T = TypeVar("T")

FORMAT: Final = 4
"""Version of the card and of the state's structure; a program reads its own format only."""
_STEP: Final = re.compile(r"step-\d{8,}")
_OTHER_MODELS: Final = "its models are not those of this program"
_STATE, _CARD, _READABLE, _ANNOUNCED = "state", "card.json", "card.md", "announced"


class CheckpointError(UsageError, ValueError):
    """A checkpoint cannot be used; the text is one line with its path and the reason."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint whose files are not those that were written, or whose values are not finite."""


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
    """Write a checkpoint and return its path; an undamaged checkpoint of the same step stays as it is.

    Raises:
        CheckpointError: a value of the state is not finite.

    """
    final = directory / f"step-{card.step:08}"
    if final.exists():
        try:
            restore(final)
            return final
        except DamagedCheckpoint as error:
            log.error("%s; it is written again", error)
    on_host = jax.device_get(state)
    if (name := not_finite(on_host)) is not None:
        raise CheckpointError(f"{final} is not written: state{name} has values that are not finite")
    unfinished = final.with_name(f"{final.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((unfinished / _STATE).absolute(), on_host)
    whole = msgspec.structs.replace(card, digest=digest(on_host))
    (unfinished / _READABLE).write_text(_markdown(whole))
    (unfinished / _CARD).write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n")
    for path in [*unfinished.rglob("*"), unfinished]:
        _to_disk(path)
    if final.exists():
        if (final / _ANNOUNCED).exists():
            (unfinished / _ANNOUNCED).touch()
        shutil.rmtree(final)
    unfinished.rename(final)
    for path in (directory, directory.parent):
        _to_disk(path)
    return final


def _to_disk(path: Path) -> None:
    """Wait until a file or a directory is on the disk: a loss of power must not empty it after the rename."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def prune(directory: Path, keep: int) -> None:
    """Remove all checkpoints but those of the latest `keep` steps and announced ones; remove all unfinished ones."""
    old = [path for path in _finished(directory)[:-keep] if not (path / _ANNOUNCED).exists()]
    for path in [*old, *directory.glob("step-*.unfinished")]:
        shutil.rmtree(path)


def keep_announced(checkpoint: Path) -> None:
    """Mark a checkpoint as announced: workers load it at their next start, so training must not remove it.

    Raises:
        CheckpointError: a training run has removed the checkpoint.

    """
    try:
        (checkpoint / _ANNOUNCED).touch()
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint} was removed by a training run meanwhile; announce a newer one") from None
    except OSError as error:  # a directory without permission to write, which training cannot remove, either
        log.warning("%s cannot be marked as announced: %s", checkpoint, error.strerror)


def newest(directory: Path) -> Path | None:
    """The checkpoint of the latest step in a directory whose card can be read, or None.

    For the path of a checkpoint, that path. Raises CheckpointError like `newest_read`.
    """
    found = newest_read(directory, card_of)
    return found and found[0]


def newest_read(directory: Path, read: Callable[[Path], T]) -> tuple[Path, T] | None:
    """Read the newest undamaged checkpoint of a directory; for the path of a checkpoint, that one.

    Returns:
        its path, and what `read` returned for it; None for a directory without checkpoints.

    Raises:
        DamagedCheckpoint: there are checkpoints, all damaged; the text is about the newest.
        CheckpointError: as `read`.

    """
    damaged = list[DamagedCheckpoint]()
    for path in [directory] if (directory / _CARD).is_file() else reversed(_finished(directory)):
        try:
            found = read(path)
        except DamagedCheckpoint as error:
            damaged.append(error)
            continue
        for reason in damaged:
            log.error("%s; %s is used instead", reason, path)
        return path, found
    if damaged:
        raise damaged[0]
    return None


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
        raise DamagedCheckpoint(f"{checkpoint} is no checkpoint: {_CARD} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{checkpoint} is damaged: {_CARD}: {error}") from None


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
        raise DamagedCheckpoint(f"{checkpoint} is damaged, or {_OTHER_MODELS}: {reason}") from error
    if jax.tree.map(_form, state) != jax.tree.map(_form, wanted):  # Orbax does not compare them
        raise CheckpointError(f"{checkpoint} cannot be used: {_OTHER_MODELS}")
    if digest(state) != card.digest:
        raise DamagedCheckpoint(f"{checkpoint} is damaged: its state does not have the digest in {_CARD}")
    if (name := not_finite(state)) is not None:
        raise DamagedCheckpoint(f"{checkpoint} cannot be used: state{name} has values that are not finite")
    return state, card


def resume_newest(directory: Path, wanted: Card) -> tuple[Path, State] | None:
    """The newest undamaged checkpoint of an interrupted run, and its state; raises like `resume`."""
    return newest_read(directory, partial(resume, wanted=wanted))


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
    """The models of a checkpoint, or of the newest undamaged one in a directory; raises CheckpointError."""
    return newest_phoenix(directory)[1]


def newest_phoenix(directory: Path) -> tuple[Path, Phoenix]:
    """The path and the models of `phoenix_of`."""
    found = newest_read(directory, restore)
    if found is None:
        raise CheckpointError(f"{directory} contains no checkpoint; `foryou train --out {directory}` writes one")
    path, (state, card) = found
    return path, Phoenix(card.model, state.served, f"step{card.step}")


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
