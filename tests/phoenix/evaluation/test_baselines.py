"""Ranking and retrieval baselines: they learn the propensities of the log, without leakage from the evaluated span."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.ports.clock import DAY_MS
from phoenix.evaluation import metrics
from phoenix.evaluation.baseline_features import entities, frozen_counts, smoothed_rates
from phoenix.evaluation.bootstrap import Draws
from phoenix.evaluation.ranking_baselines import RankingBaselines
from phoenix.evaluation.retrieval_baselines import RetrievalTask
from phoenix.evaluation.split import Split
from tests.phoenix.evaluation.logs import BEGIN_MS, CLICK, log_drawn, with_actions
from thunder_ingest.events import ActionName

ACTIONS: tuple[ActionName, ...] = ("click", "vqv")
few = settings(max_examples=5, deadline=None)


def split_of(seed: int) -> Split:
    return Split(
        log_drawn(seed),
        BEGIN_MS + 2 * DAY_MS,
        BEGIN_MS + 5 * DAY_MS,
        BEGIN_MS + 6 * DAY_MS,
        {"click": BEGIN_MS + DAY_MS},
    )


def with_another_future(split: Split, seed: int) -> Split:
    """A split with the same past, and with other actions on all later rows."""
    rng = np.random.default_rng(seed)
    future = split.log.complete_at >= split.since_ms
    drawn = rng.random(split.log.actions.shape) < 0.5
    return replace(split, log=with_actions(split.log, np.where(future[:, np.newaxis], drawn, split.log.actions)))


@few
@given(st.integers(0, 2**32))
def test_ranking_baselines_use_nothing_from_the_evaluated_span(seed: int) -> None:
    split = split_of(seed)
    for action in ACTIONS:
        mine = RankingBaselines(split, ACTIONS).predict(action)
        others = RankingBaselines(with_another_future(split, seed), ACTIONS).predict(action)
        for name in mine:
            np.testing.assert_array_equal(mine[name], others[name], err_msg=name)


@few
@given(st.integers(0, 2**32))
def test_the_counters_of_a_row_contain_neither_its_outcome_nor_a_later_one(seed: int) -> None:
    split = split_of(seed)
    keys = entities(split.log)
    trained, _ = frozen_counts(split, keys, ACTIONS)
    last = np.random.default_rng(seed).integers(0, len(split.trained))
    moment = split.log.at[split.trained[last]]
    later = (split.log.at >= moment)[:, np.newaxis]
    otherwise = replace(split, log=with_actions(split.log, split.log.actions ^ later))
    shown_until_then = split.log.at[split.trained] <= moment
    np.testing.assert_array_equal(
        trained[shown_until_then], frozen_counts(otherwise, keys, ACTIONS)[0][shown_until_then]
    )


def test_every_ranking_baseline_learns_and_the_blend_beats_the_post_rate() -> None:
    split = split_of(3)
    labels = split.labels("click", split.evaluated)
    draws = Draws.of(split.log.viewer_id[split.evaluated], replicates=1)
    reached = {
        name: metrics.auc(labels, probabilities, draws)[0]
        for name, probabilities in RankingBaselines(split, ACTIONS).predict("click").items()
    }
    assert min(reached.values()) > 0.6
    assert reached["viewer_and_post_rates"] > reached["post_rate"] + 0.05
    assert reached["blend"] > reached["post_rate"] + 0.05


def test_a_rate_with_fewer_impressions_is_smoothed_more() -> None:
    log = log_drawn(5, viewers=3, posts=2, rows=9)
    log = log._replace(
        post=np.array([0, 0, 0, 0, 0, 0, 0, 1, 1]),
        at=np.arange(9) + BEGIN_MS,
        complete_at=np.arange(9) + BEGIN_MS,
        actions=np.arange(19) == np.where(np.arange(9) == 0, CLICK, -1)[:, np.newaxis],
    )
    split = Split(log, BEGIN_MS, BEGIN_MS + 8, BEGIN_MS + 9, {})
    rates = smoothed_rates(log.post, split, "click", split.past)
    # one of eight was clicked, so a prior of two positives is sixteen impressions
    assert rates.tolist() == [pytest.approx(3 / 23), pytest.approx(2 / 17)]


def test_the_rate_of_an_unrecorded_action_is_nan() -> None:
    split = split_of(1)
    rates = smoothed_rates(split.log.post, split, "click", split.past[:0])
    assert np.isnan(rates).all()


@few
@example(7279)  # posts with equal vectors compete for a viewer's last places
@given(st.integers(0, 2**32))
def test_retrieval_baselines_use_nothing_from_the_evaluated_span_and_find_no_seen_posts(seed: int) -> None:
    split = replace(split_of(seed), log=log_drawn(seed, posts=400, rows=2_000))
    task = RetrievalTask(split, "click")
    other = RetrievalTask(with_another_future(split, seed), "click")
    shared = np.isin(task.viewer_id, other.viewer_id), np.isin(other.viewer_id, task.viewer_id)
    others = other.baselines(30)
    for name, found in task.baselines(30).items():
        np.testing.assert_array_equal(np.sort(found[shared[0]]), np.sort(others[name][shared[1]]), err_msg=name)
        for viewer, posts in zip(task.viewer_id, found, strict=True):
            seen = split.log.post[split.past][split.log.viewer_id[split.past] == viewer]
            assert not np.isin(posts, seen).any()
            assert len(set(posts)) == len(posts)


def test_relevant_posts_are_engaged_posts_that_were_not_shown_before() -> None:
    split = replace(split_of(2), log=log_drawn(2, posts=400, rows=2_000))
    task = RetrievalTask(split, "click")
    log = split.log
    for viewer, wanted in zip(task.viewer_id, task.relevant, strict=True):
        mine = log.viewer_id == viewer
        engaged = set(log.post[split.evaluated][(mine & log.actions[:, CLICK])[split.evaluated]].tolist())
        assert set(np.flatnonzero(wanted)) == engaged - set(log.post[split.past][mine[split.past]].tolist())
        assert wanted.any()


def test_missing_posts_are_padding_and_unpublished_posts_are_not_found() -> None:
    split = replace(split_of(2), log=log_drawn(2, posts=50, rows=600))
    split.log.posts.created_at[:5] = split.until_ms
    task = RetrievalTask(split, "click")
    found = task.nearest(np.ones((len(task.viewer_id), 1)), np.ones((50, 1)), 60)
    assert found.shape == (len(task.viewer_id), 60)
    assert not np.isin(found, np.arange(5)).any()
    assert (found == -1).sum(axis=1).min() >= 15


def test_collaborative_filtering_finds_posts_shown_to_similar_viewers() -> None:
    """Ten groups of viewers, each with sixty posts of its own."""
    log = log_drawn(1, viewers=600, posts=600, rows=18_000)
    log = log._replace(post=log.viewer_id % 10 * 60 + log.post % 60)
    task = RetrievalTask(replace(split_of(1), log=log), "click")
    reached = {name: np.mean(metrics.recall(found, task.relevant)) for name, found in task.baselines(60).items()}
    assert min(reached["als"], reached["item_item"]) > 0.9
    assert max(reached["popular_the_day_before"], reached["newest"]) < 0.3


def test_a_span_without_relevant_posts_is_refused() -> None:
    split = split_of(1)
    silent = replace(split, log=with_actions(split.log, np.zeros_like(split.log.actions)))
    with pytest.raises(ValueError, match="no click on a post that was new"):
        RetrievalTask(silent, "click")
