"""The training loop: the steps of a run, with reports of the losses and checkpoints.

A step that is not finite is skipped (`phoenix.training.step`). The loop ends a run whose newest steps were all skipped:
no later batch repairs it.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from infra.ports.errors import ForYouError
from phoenix.data.batches import Batches
from phoenix.training import checkpoints
from phoenix.training.checkpoints import Card
from phoenix.training.step import State, Trainer

_REPORT_STEPS: Final = 20
"""Steps between reports. Each report waits for the losses; in between, the host prepares while the device computes."""
MAX_SKIPPED: Final = 20
"""A run ends when a report finds that this many steps in a row were skipped."""


class Diverged(ForYouError, RuntimeError):
    """Too many steps in a row were skipped; the text names the last of them."""


class Checkpointing(NamedTuple):
    """The checkpoints of a run."""

    directory: Path
    card: Card  # of the run; each checkpoint gets its own step and figures
    every: int  # steps between checkpoints; the last step gets one, too
    keep: int  # newest checkpoints that stay


class Progress(NamedTuple):
    """A report of the loop."""

    step: int  # steps taken so far
    figures: dict[str, float]  # the losses of the step's batch, if finite, and the number of skipped steps
    checkpoint: Path | None  # the checkpoint of this step, if the loop saved one


def start(trainer: Trainer, checkpointing: Checkpointing) -> tuple[State, Path | None]:
    """The state of the run's newest undamaged checkpoint and its path, or the initial state and None.

    Raises:
        CheckpointError: all checkpoints are damaged, or the newest belongs to another run.

    """
    found = checkpoints.resume_newest(checkpointing.directory, checkpointing.card)
    return (trainer.initial(), None) if found is None else (found[1], found[0])


def fit(
    trainer: Trainer,
    batches: Batches,
    state: State,
    report: Callable[[Progress], None],
    checkpointing: Checkpointing | None = None,
) -> State:
    """Take all steps that remain after `state`, and return the last state.

    A run that was killed and continues from its checkpoint ends in the same bits as an uninterrupted one.

    Args:
        trainer: takes the steps.
        batches: one for each step of the whole run.
        state: the state to continue from; the loop donates its buffers.
        report: called every 20 steps, at each checkpoint and after the last step.
        checkpointing: where and how often to save; None: never.

    Raises:
        Diverged: at a report, the last MAX_SKIPPED steps or more were all skipped; the loop saves no checkpoint then.

    """
    for step, (reached, losses) in enumerate(trainer.run(state, batches), int(state.step) + 1):
        state, last = reached, step == batches.steps
        to_save = checkpointing if checkpointing and (last or step % checkpointing.every == 0) else None
        if not (to_save or last or step % _REPORT_STEPS == 0):
            continue
        if (in_a_row := int(state.skipped_in_a_row)) >= MAX_SKIPPED:
            raise Diverged(
                f"{in_a_row} steps in a row up to step {step:,} were skipped, since their losses or gradients are not "
                "finite; lower the learning rates"
            )
        figures = {
            f"loss_{name}": value for name, loss in losses._asdict().items() if math.isfinite(value := float(loss))
        }
        figures["skipped_steps"] = int(state.skipped)
        report(Progress(step, figures, _saved(to_save, state, step, figures) if to_save else None))
    return state


def _saved(checkpointing: Checkpointing, state: State, step: int, figures: dict[str, float]) -> Path:
    """Save a checkpoint and remove those that are too old."""
    directory, card, _, keep = checkpointing
    path = checkpoints.save(directory, state, msgspec.structs.replace(card, step=step, figures=figures))
    checkpoints.prune(directory, keep)
    return path
