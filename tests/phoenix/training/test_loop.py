"""The training loop with steps that need no compilation; whole runs are in `tests/infra/cli/test_train.py`."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from phoenix.models.configs import NANO, TrainingConfig
from phoenix.training import checkpoints
from phoenix.training.checkpoints import Card
from phoenix.training.loop import MAX_SKIPPED, Checkpointing, Diverged, Progress, take_steps
from phoenix.training.losses import Losses
from phoenix.training.step import State

STEPS = 47


def state(step: int, skipped: int = 0) -> State:
    empty: Any = ()
    return State(empty, (empty, empty), np.int32(step), np.int32(skipped), np.int32(skipped), None)


class FixedLosses:
    """A trainer whose steps do nothing; from `diverges_at` on, steps are skipped and ranking losses are not numbers."""

    def __init__(self, diverges_at: int = STEPS + 1) -> None:
        self._diverges_at = diverges_at

    def run(self, begun: State, batches: Any) -> Iterator[tuple[State, Losses]]:
        for step in range(int(begun.step) + 1, batches.steps + 1):
            skipped = max(0, step + 1 - self._diverges_at)
            yield state(step, skipped), Losses(jnp.float32("nan" if skipped else 1.0), jnp.float32(step))


def fitted(trainer: Any, first: int, checkpointing: Checkpointing | None) -> tuple[State, list[Progress]]:
    batches: Any = SimpleNamespace(steps=STEPS)
    reports: list[Progress] = []
    every = 15 if checkpointing else 500
    return take_steps(trainer, batches, state(first), reports.append, checkpointing, every=every), reports


@pytest.fixture
def checkpointing(tmp_path: Path) -> Checkpointing:
    card = Card(step=0, steps=STEPS, model=NANO, training=TrainingConfig(), data={}, commit="of the test")
    return Checkpointing(tmp_path, card, keep=2)


def test_reports_come_every_20_steps_and_after_the_last_step() -> None:
    last, reports = fitted(FixedLosses(), 0, None)
    assert int(last.step) == STEPS
    assert [(report.step, report.checkpoint) for report in reports] == [(20, None), (40, None), (STEPS, None)]
    assert reports[0].figures == {"loss_ranking": 1.0, "loss_retrieval": 20.0, "skipped_steps": 0}


def test_checkpoints_come_at_their_interval_and_after_the_last_step_and_old_ones_go(
    checkpointing: Checkpointing,
) -> None:
    _, reports = fitted(FixedLosses(), 17, checkpointing)
    saved = [report.checkpoint for report in reports if report.checkpoint]
    assert [path.name for path in saved] == ["step-00000030", "step-00000045", "step-00000047"]
    assert sorted(checkpointing.directory.iterdir()) == saved[-2:]
    card = checkpoints.card_of(saved[-1])
    assert (card.step, card.figures) == (
        STEPS,
        {"loss_ranking": 1.0, "loss_retrieval": 47.0, "skipped_steps": 0},
    )


def test_a_run_that_skips_too_many_steps_in_a_row_ends_before_its_checkpoint(checkpointing: Checkpointing) -> None:
    with pytest.raises(Diverged, match="21 steps in a row up to step 45 were skipped"):
        fitted(FixedLosses(diverges_at=46 - MAX_SKIPPED - 1), 0, checkpointing)
    assert [path.name for path in sorted(checkpointing.directory.iterdir())] == ["step-00000015", "step-00000030"]


def test_a_run_survives_fewer_skipped_steps_and_its_card_counts_them(checkpointing: Checkpointing) -> None:
    _, reports = fitted(FixedLosses(diverges_at=STEPS + 2 - MAX_SKIPPED), 0, checkpointing)
    assert reports[-1].checkpoint
    figures = checkpoints.card_of(reports[-1].checkpoint).figures
    assert figures == {"loss_retrieval": 47.0, "skipped_steps": MAX_SKIPPED - 1}


def test_a_finished_run_takes_no_step() -> None:
    last, reports = fitted(FixedLosses(), STEPS, None)
    assert int(last.step) == STEPS
    assert reports == []
