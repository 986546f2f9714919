"""The models' predictions and vectors on a split, and the evaluation report."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from infra.ports.clock import DAY_MS
from phoenix.data.point_in_time import PointInTimeCounts
from phoenix.data.slates import candidates_of, frozen, history_of
from phoenix.evaluation.predictions import evaluation_config, post_vectors, predictions, viewer_vectors
from phoenix.evaluation.report import Evaluation, Report
from phoenix.evaluation.split import Split
from phoenix.models.configs import ModelConfig
from phoenix.serving.engine import Phoenix
from tests.phoenix.builders import TOLERANCE
from tests.phoenix.evaluation.logs import BEGIN_MS, log_drawn, with_actions

SINCE_MS = BEGIN_MS + 5 * DAY_MS


@pytest.fixture(scope="module")
def split() -> Split:
    log = log_drawn(4, posts=200, rows=2_000)
    return Split(log, BEGIN_MS + 2 * DAY_MS, SINCE_MS, BEGIN_MS + 6 * DAY_MS, {})


@pytest.fixture(scope="module")
def models(tiny: ModelConfig, strict_jax: None) -> list[Phoenix]:
    return [Phoenix.seeded(evaluation_config(tiny), seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def report(split: Split, models: list[Phoenix]) -> Report:
    evaluation = Evaluation(split, ["click", "vqv"], retrieved_for="click", seed=0, replicates=20)
    return evaluation.report(models, lambda _: None, baselines=True)


def test_each_row_has_the_prediction_of_a_request_with_this_row_alone(split: Split, models: list[Phoenix]) -> None:
    predicted = predictions(models[0], split)
    config = models[0].config
    for place in range(0, len(split.evaluated), 37):
        slate = frozen(split.log, split.evaluated[place : place + 1], SINCE_MS, 1)
        history = history_of(split.log, slate, config.history, config.tokens)
        alone = models[0].score(history, candidates_of(split.log, PointInTimeCounts(split.log), slate, config.tokens))
        np.testing.assert_allclose(predicted[place], alone[0, 0], rtol=TOLERANCE)


def test_models_use_nothing_from_the_evaluated_span(split: Split, models: list[Phoenix]) -> None:
    later = (split.log.complete_at >= SINCE_MS)[:, np.newaxis]
    otherwise = replace(split, log=with_actions(split.log, split.log.actions ^ later))
    viewers = np.unique(split.log.viewer_id[split.evaluated])
    np.testing.assert_array_equal(predictions(models[0], split), predictions(models[0], otherwise))
    np.testing.assert_array_equal(
        viewer_vectors(models[0], split, viewers), viewer_vectors(models[0], otherwise, viewers)
    )


def test_vectors_are_those_of_the_given_viewers_and_of_all_posts(split: Split, models: list[Phoenix]) -> None:
    viewers = np.unique(split.log.viewer_id[split.evaluated])
    some = viewers[[3, 0, 7]]
    np.testing.assert_allclose(
        viewer_vectors(models[0], split, some), viewer_vectors(models[0], split, viewers)[[3, 0, 7]], atol=1e-5
    )
    assert len(post_vectors(models[0], split)) == len(split.log.posts.post_id)


def test_the_models_figures_are_the_mean_over_models(report: Report) -> None:
    click = report.actions["click"]
    for metric in ("auc", "gauc", "log_loss", "rce", "ece", "calibration"):
        assert len(click["models"][metric]) == 2
        assert click[metric] == pytest.approx(np.mean(click["models"][metric]))
    assert report.retrieval["recall@100"] == pytest.approx(np.mean(report.retrieval["models"]["recall@100"]))


def test_differences_to_a_baseline_cover_the_metrics_that_both_have(report: Report) -> None:
    assert set(report.differences) == set(report.baselines)
    for name, baseline in report.baselines.items():
        for action, measured in baseline.actions.items():
            ahead = report.differences[name].actions[action]
            assert ahead["auc"] == pytest.approx(report.actions[action]["auc"] - measured["auc"])
            assert ahead["interval"]["auc"][0] <= ahead["interval"]["auc"][1]
    assert report.baselines["blend"].actions.keys() == {"click", "vqv"}
    assert report.baselines["als"].actions == {}
    assert report.baselines["als"].retrieval.keys() == report.retrieval.keys() - {"models"}


def test_an_untrained_model_is_worse_than_the_baselines(report: Report) -> None:
    low, high = report.differences["blend"].actions["click"]["interval"]["auc"]
    assert high < 0
    assert low > -0.6


def test_the_report_is_json_with_the_documented_keys(report: Report) -> None:
    document = msgspec.json.decode(msgspec.json.encode(report))
    assert isinstance(document["actions"]["click"]["auc"], float)
    assert isinstance(document["retrieval"]["recall@100"], float)
    assert document["baselines"]["trees_on_counts"]["actions"]["vqv"]["interval"]["rce"]
    assert document["protocol"]["since_ms"] == SINCE_MS
