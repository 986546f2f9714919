"""Training as a library."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.ports.clock import DAY_MS
from phoenix.data.batches import Span
from phoenix.models.configs import NANO, TrainingConfig
from phoenix.training import Begun, Checkpoints, Fitted, Progress, fit
from phoenix.training.checkpoints import card_of, phoenix_of
from phoenix.training.fitting import NoExamples
from phoenix.training.run_config import LEAST_BATCH, RunConfig
from tests.phoenix.evaluation.logs import BEGIN_MS, log_drawn
from tests.phoenix.saved import TINY

LOG = log_drawn(1, viewers=20, posts=20)
SPAN = Span(BEGIN_MS, BEGIN_MS + 6 * DAY_MS, {})
TRAINING = TrainingConfig(batch=16, epochs=2, rate=2e-2, table_rate=0.5, sampled_posts=8, viewer_dropout=0.1)


class Fit:
    """A run with its reports."""

    def __init__(self, directory: Path) -> None:
        self.begun: list[Begun] = []
        self.reports: list[Progress] = []
        checkpoints = Checkpoints(directory, keep=9, commit="of the test")
        self.fitted = fit(
            LOG,
            SPAN,
            TINY,
            TRAINING,
            checkpoints=checkpoints,
            every=40,
            begun=self.begun.append,
            report=self.reports.append,
        )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    with pytest.MonkeyPatch.context() as quickly:
        # half of XLA's time: the steps are few
        quickly.setattr(jax, "jit", partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0}))
        return Fit(tmp_path_factory.mktemp("fit"))


def test_a_run_reports_its_examples_and_evaluates_at_each_interval_on_those_held_out(first: Fit) -> None:
    (begun,) = first.begun
    assert begun.held_out == round(0.1 * len(LOG.at))
    assert begun.examples + begun.held_out == pytest.approx(len(LOG.at), abs=30)  # without the last half hour
    assert (begun.step, begun.checkpoint) == (0, None)
    evaluated = [report.step for report in first.reports if "held_out_auc" in report.figures]
    assert evaluated == [*range(40, begun.steps, 40), begun.steps]
    assert [report.step for report in first.reports if report.checkpoint] == evaluated
    for report in first.reports:
        if report.checkpoint:
            assert report.figures.items() >= {f"untrained_{name}": each for name, each in begun.figures.items()}.items()


def test_trained_models_beat_untrained_ones_and_their_card_says_so(first: Fit) -> None:
    fitted = first.fitted
    assert fitted.is_better
    assert fitted.figures["held_out_auc"] > 0.7 > fitted.figures["untrained_held_out_auc"]
    assert fitted.checkpoint
    card = card_of(fitted.checkpoint)
    assert card.figures == fitted.figures
    assert card.data["until_ms"] < SPAN.until_ms  # the held-out examples are no training data
    assert phoenix_of(fitted.checkpoint).version == fitted.phoenix(f"step{card.step}").version


def test_a_finished_run_takes_no_step_and_has_the_same_figures(first: Fit) -> None:
    assert first.fitted.checkpoint
    again = Fit(first.fitted.checkpoint.parent)
    assert (again.begun[0].step, again.begun[0].checkpoint) == (again.begun[0].steps, first.fitted.checkpoint)
    assert again.reports == []
    held_out = {name: each for name, each in first.fitted.figures.items() if "held_out" in name}
    assert again.fitted.figures == pytest.approx(held_out, rel=1e-5)
    assert again.fitted.checkpoint == first.fitted.checkpoint


def test_a_span_without_examples_is_refused() -> None:
    with pytest.raises(NoExamples, match="no impression in this span"):
        fit(LOG, Span(0, BEGIN_MS, {}), TINY, TRAINING)


@pytest.mark.parametrize(
    ("loss", "auc", "better"), [(0.4, 0.6, True), (0.5, 0.6, False), (0.4, 0.5, False), (0.6, 0.4, False)]
)
def test_models_are_better_than_untrained_ones_if_both_figures_are(loss: float, auc: float, better: bool) -> None:
    figures = {"held_out_log_loss": loss, "held_out_auc": auc}
    figures |= {"untrained_held_out_log_loss": 0.5, "untrained_held_out_auc": 0.5}
    nothing: Any = None
    assert Fitted(TINY, nothing, 1, figures, None).is_better is better
    assert Fitted(TINY, nothing, 1, {"loss_ranking": loss}, None).is_better is None


@given(st.integers(0, 10**8), st.integers(1, 64))
def test_small_logs_get_smaller_batches_and_more_passes(examples: int, candidates: int) -> None:
    training = TrainingConfig(candidates=candidates)
    found = RunConfig(NANO, training).suited(examples)
    assert replace(found, batch=training.batch, epochs=training.epochs) == training
    assert LEAST_BATCH <= found.batch <= training.batch
    assert 1 <= found.epochs <= training.most_epochs
    slates = examples // candidates
    if found.epochs < training.most_epochs:
        assert found.epochs * slates >= training.least_steps * found.batch
    if found.epochs > 1:
        assert (found.epochs - 1) * slates < training.least_steps * found.batch


def test_a_large_log_keeps_the_defaults_and_chosen_values_stay() -> None:
    assert RunConfig(NANO, TrainingConfig()).suited(10**6) == TrainingConfig()
    chosen = RunConfig(NANO, TrainingConfig()).choosing(batch=48, epochs=2)
    assert chosen.suited(100) == TrainingConfig(batch=48, epochs=2)
