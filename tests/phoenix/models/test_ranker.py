"""A score depends on the viewer, the history, the candidate and the surface, and on nothing else."""

from dataclasses import replace

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix.features.actions import MAX_DWELL_MS
from phoenix.features.inputs import CandidateInputs, CandidateRows, HistoryRows, candidate_rows, history_rows
from phoenix.models.configs import ModelConfig
from phoenix.models.ranker import Ranker, log_counts, predictions
from phoenix.serving.engine import Phoenix
from tests.phoenix.builders import (
    TOLERANCE,
    begun_params,
    candidates_of,
    padded_in_front,
    picked,
    some_candidates,
    some_history,
    viewer,
)
from thunder_ingest.counts.columns import COUNT_COLUMNS
from thunder_ingest.events import ACTION_INDEX, IMPRESSION

CANDIDATES = 21
"""More than the largest bucket, so that a request has several chunks."""


def same(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(one, other, rtol=TOLERANCE)


def in_one_pass(config: ModelConfig, history: HistoryRows, candidates: CandidateRows) -> np.ndarray:
    model = hk.transform(lambda *rows: predictions(Ranker(config)(*rows)))
    return np.asarray(jax.jit(model.apply)(begun_params(config).ranker, None, history, candidates))


@given(st.lists(st.integers(0, CANDIDATES - 1), min_size=1, max_size=30))
@settings(deadline=None, max_examples=40)
def test_a_score_depends_neither_on_other_candidates_nor_on_their_number_or_order(
    phoenix: Phoenix, columns: list[int]
) -> None:
    history, candidates = some_history(phoenix.config, 2, 12), some_candidates(phoenix.config, 2, CANDIDATES)
    same(phoenix.score(history, picked(candidates, columns)), phoenix.score(history, candidates)[:, columns])


@given(st.integers(1, 9), st.integers(0, 2**16))
@settings(deadline=None, max_examples=20)
def test_a_score_does_not_depend_on_other_viewers_of_the_batch(phoenix: Phoenix, viewers: int, seed: int) -> None:
    history, candidates = (
        some_history(phoenix.config, viewers, 12, seed),
        some_candidates(phoenix.config, viewers, 6, seed),
    )
    together = phoenix.score(history, candidates)
    for row in range(viewers):
        same(phoenix.score(viewer(history, row), candidates_of(candidates, row))[0], together[row])


@pytest.mark.parametrize("positions", [0, 1, 5, 11])
def test_masked_positions_change_nothing(phoenix: Phoenix, positions: int) -> None:
    history, candidates = some_history(phoenix.config, 2, 12), some_candidates(phoenix.config, 2, 5)
    short = type(history)(history.user_id, *(column[:, 12 - positions :] for column in history[1:]))
    filled = padded_in_front(short, 12 - positions) if positions else some_history(phoenix.config, 2, 12)
    filled = filled._replace(mask=filled.mask & (np.arange(12) >= 12 - positions))
    same(phoenix.score(filled, candidates), phoenix.score(short, candidates))


@pytest.mark.parametrize("shown", [1, 4])
def test_padding_of_a_history_changes_no_score(tiny: ModelConfig, shown: int) -> None:
    padded = history_rows(tiny, some_history(tiny, 1, shown))
    bare = HistoryRows(padded.user, *(column[:, -shown:] for column in padded[1:]))
    candidates = candidate_rows(tiny, some_candidates(tiny, 1, 3), 0, 3)
    same(in_one_pass(tiny, bare, candidates), in_one_pass(tiny, padded, candidates))


@pytest.mark.parametrize("buckets", [(1,), (3, 7), (CANDIDATES,), (64,)])
def test_buckets_and_chunks_change_no_score(phoenix: Phoenix, tiny: ModelConfig, buckets: tuple[int, ...]) -> None:
    other = Phoenix(replace(tiny, candidate_buckets=buckets, batch_buckets=(2,)), begun_params(tiny), "begun")
    history, candidates = some_history(tiny, 3, 12), some_candidates(tiny, 3, CANDIDATES)
    same(other.score(history, candidates), phoenix.score(history, candidates))


@given(st.lists(st.booleans(), min_size=CANDIDATES, max_size=CANDIDATES))
@settings(deadline=None, max_examples=20)
def test_masked_candidates_change_no_score(phoenix: Phoenix, kept: list[bool]) -> None:
    history, candidates = some_history(phoenix.config, 1, 12), some_candidates(phoenix.config, 1, CANDIDATES)
    masked = candidates._replace(mask=np.array([kept]))
    same(phoenix.score(history, masked)[:, kept], phoenix.score(history, candidates)[:, kept])


@given(st.lists(st.booleans(), min_size=16, max_size=16), st.integers(1, 2**16))
@settings(deadline=None, max_examples=20)
def test_other_candidates_in_the_same_place_change_no_bit(phoenix: Phoenix, replaced: list[bool], seed: int) -> None:
    history, candidates = some_history(phoenix.config, 1, 12), some_candidates(phoenix.config, 1, 16)
    others = some_candidates(phoenix.config, 1, 16, seed)
    kept = ~np.array(replaced)
    mixed = CandidateInputs(
        *(
            np.where(np.array([replaced]).reshape(1, 16, *(1,) * (one.ndim - 2)), other, one) if one.ndim > 1 else one
            for one, other in zip(candidates, others, strict=True)
        )
    )
    np.testing.assert_array_equal(phoenix.score(history, mixed)[:, kept], phoenix.score(history, candidates)[:, kept])


def test_the_training_pass_and_serving_compute_the_same_scores(phoenix: Phoenix, tiny: ModelConfig) -> None:
    history, candidates = some_history(tiny, 3, 12), some_candidates(tiny, 3, 9)
    scored = in_one_pass(tiny, history_rows(tiny, history), candidate_rows(tiny, candidates, 0, 9))
    same(scored, phoenix.score(history, candidates))


@pytest.mark.parametrize(
    "column", ["post_id", "author_id", "tokens", "video_ms", "photos", "age_ms", "totals", "surface", "asked_at"]
)
def test_every_feature_of_a_candidate_counts(phoenix: Phoenix, column: str) -> None:
    history, candidates = some_history(phoenix.config, 1, 12), some_candidates(phoenix.config, 1, 4)
    zeroed = candidates._replace(**{column: np.zeros_like(getattr(candidates, column))})
    assert not np.allclose(phoenix.score(history, candidates), phoenix.score(history, zeroed), rtol=1e-3)


@pytest.mark.parametrize(
    "column",
    [
        "user_id",
        "post_id",
        "author_id",
        "tokens",
        "actions",
        "recorded",
        "dwell_ms",
        "age_ms",
        "surface",
        "video_ms",
        "mask",
    ],
)
def test_every_feature_of_a_viewer_counts(phoenix: Phoenix, column: str) -> None:
    history, candidates = some_history(phoenix.config, 1, 12), some_candidates(phoenix.config, 1, 4)
    zeroed = history._replace(**{column: np.zeros_like(getattr(history, column))})
    assert not np.allclose(phoenix.score(history, candidates), phoenix.score(zeroed, candidates), rtol=1e-3)


def test_the_transformer_reads_counts_by_their_doublings_and_by_rates(tiny: ModelConfig) -> None:
    """The prior reads counts, too, so scores would differ without it."""
    favorite, shown = ACTION_INDEX["favorite"], IMPRESSION
    totals = np.zeros((5, COUNT_COLUMNS), np.int32)
    totals[:, [favorite, shown]] = [(0, 0), (1, 10), (3, 10), (50, 100), (500, 1_000)]
    read = np.asarray(log_counts(jnp.asarray(totals)))
    doublings, rates = read[:, favorite], read[:, COUNT_COLUMNS + favorite]
    assert doublings[2] - doublings[1] == pytest.approx(0.3)  # 1 + count doubles
    assert (np.diff(doublings) > 0).all()
    assert rates[3] == pytest.approx(rates[4], abs=0.02)
    assert rates[3] > rates[2] > rates[1]

    candidates = some_candidates(tiny, 1, 4)
    without = candidates._replace(totals=np.zeros_like(candidates.totals))
    embed = hk.transform(lambda rows: Ranker(tiny).embed(rows))
    with_them, without_them = (
        embed.apply(begun_params(tiny).ranker, None, candidate_rows(tiny, each, 0, 4))[0]
        for each in (candidates, without)
    )
    assert not np.allclose(with_them, without_them, rtol=1e-2)


def test_the_order_of_a_history_counts(phoenix: Phoenix) -> None:
    history, candidates = some_history(phoenix.config, 1, 12), some_candidates(phoenix.config, 1, 4)
    reversed_ = type(history)(history.user_id, *(column[:, ::-1] for column in history[1:]))
    assert not np.allclose(phoenix.score(history, candidates), phoenix.score(reversed_, candidates), rtol=1e-3)


def test_an_untrained_ranker_is_the_prior_whatever_its_transformer_computes(
    phoenix: Phoenix, tiny: ModelConfig
) -> None:
    history, candidates = some_history(tiny, 4, 12), some_candidates(tiny, 4, 64)
    one, other = (Phoenix.seeded(tiny, seed).score(history, candidates) for seed in (7, 8))
    # only the random embeddings of the words differ
    without = history._replace(tokens=np.zeros_like(history.tokens))
    same(*(Phoenix.seeded(tiny, seed).score(without, candidates) for seed in (7, 8)))
    assert not np.allclose(one, phoenix.score(history, candidates), rtol=1e-3)
    assert not np.array_equal(one, other)


def test_predictions_are_probabilities_and_then_a_dwell_time(phoenix: Phoenix) -> None:
    scores = phoenix.score(some_history(phoenix.config, 4, 12), some_candidates(phoenix.config, 4, 64))
    assert scores.shape == (4, 64, 19)
    assert scores.dtype == np.float32
    assert ((scores[..., :-1] > 0) & (scores[..., :-1] < 1)).all()
    assert ((scores[..., -1] > 1) & (scores[..., -1] < MAX_DWELL_MS)).all()
