"""The training loop: the steps of a run, with reports of the losses, evaluations and checkpoints.

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
from phoenix.models.parameters import Params
from phoenix.training import checkpoints
from phoenix.training.checkpoints import Card
from phoenix.training.losses import Losses
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
    keep: int  # newest checkpoints that stay


class Progress(NamedTuple):
    """A report of the loop."""

    step: int  # steps taken so far
    figures: dict[str, float]  # finite losses of the step's batch, the number of skipped steps, and the evaluation
    checkpoint: Path | None  # the checkpoint of this step, if the loop saved one


def take_steps(
    trainer: Trainer,
    batches: Batches,
    state: State,
    report: Callable[[Progress], None],
    checkpointing: Checkpointing | None = None,
    *,
    every: int = 500,
    evaluate: Callable[[Params], dict[str, float]] = lambda _: {},
) -> State:
    """Take all steps that remain after `state`, and return the last state.

    A run that was killed and continues from its checkpoint ends in the same bits as an uninterrupted one.

    Args:
        trainer: takes the steps.
        batches: one for each step of the whole run.
        state: the state to continue from; the loop donates its buffers.
        report: called every 20 steps, after each interval and after the last step.
        checkpointing: where to save; None: nowhere.
        every: steps of an interval, after which the loop evaluates and saves. The last step ends one, too.
        evaluate: figures of the served parameters.

    Raises:
        Diverged: at a report, the last MAX_SKIPPED steps or more were all skipped; the loop saves no checkpoint then.

    """
    for step, (reached, losses) in enumerate(trainer.run(state, batches), int(state.step) + 1):
        state = reached
        is_interval = step == batches.steps or step % every == 0
        if not (is_interval or step % _REPORT_STEPS == 0):
            continue
        figures = _figures(state, losses) | (evaluate(state.served) if is_interval else {})
        saved = _saved(checkpointing, state, step, figures) if is_interval and checkpointing else None
        report(Progress(step, figures, saved))
    return state


def _figures(state: State, losses: Losses) -> dict[str, float]:
    """The finite losses of a step and the number of skipped steps; raises Diverged if the newest were all skipped."""
    if (in_a_row := int(state.skipped_in_a_row)) >= MAX_SKIPPED:
        raise Diverged(
            f"{in_a_row} steps in a row up to step {int(state.step):,} were skipped, since their losses or gradients "
            "are not finite; lower the learning rates"
        )
    values = {f"loss_{name}": float(loss) for name, loss in losses._asdict().items()}
    return {name: value for name, value in values.items() if math.isfinite(value)} | {
        "skipped_steps": int(state.skipped)
    }


def _saved(checkpointing: Checkpointing, state: State, step: int, figures: dict[str, float]) -> Path:
    """Save a checkpoint and remove those that are too old."""
    directory, card, keep = checkpointing
    path = checkpoints.save(directory, state, msgspec.structs.replace(card, step=step, figures=figures))
    checkpoints.prune(directory, keep)
    return path
