"""Metrics: comparison with scikit-learn, and small examples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs

from phoenix.evaluation import metrics
from phoenix.evaluation.bootstrap import Draws, Estimate

many = settings(max_examples=60, deadline=None)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, Draws]:
    """Labels, probabilities with many ties, and a few draws over few viewers."""
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.random(n) < 0.4
    probabilities = rng.integers(1, draw(st.sampled_from([3, 1000])), n) / 1000
    return labels, probabilities, Draws.of(rng.integers(0, 7, n), seed=n, replicates=4)


def rows_of(draws: Draws, draw: int) -> np.ndarray:
    """The rows of a draw, repeated by the multiplicity of their viewers."""
    return np.repeat(np.arange(len(draws.viewer)), draws.weight[draw, draws.viewer].astype(int))


def both(labels: np.ndarray) -> bool:
    return bool(labels.any() and not labels.all())


@many
@given(cases())
def test_auc_equals_that_of_scikit_learn_on_every_draw(case: tuple[np.ndarray, np.ndarray, Draws]) -> None:
    labels, scores, draws = case
    for draw, figure in enumerate(metrics.auc(labels, scores, draws)):
        rows = rows_of(draws, draw)
        if both(labels[rows]):
            assert figure == pytest.approx(theirs.roc_auc_score(labels[rows], scores[rows]), abs=1e-12)
        else:
            assert np.isnan(figure)


@many
@given(cases())
def test_gauc_is_the_weighted_mean_of_auc_over_viewers(
    case: tuple[np.ndarray, np.ndarray, Draws],
) -> None:
    labels, scores, draws = case
    for draw, figure in enumerate(metrics.gauc(labels, scores, draws)):
        of_viewer, weights = [], []
        for viewer, times in enumerate(draws.weight[draw]):
            rows = np.flatnonzero(draws.viewer == viewer)
            if times and both(labels[rows]):
                of_viewer.append(theirs.roc_auc_score(labels[rows], scores[rows]))
                weights.append(times * len(rows))
        if of_viewer:
            assert figure == pytest.approx(np.average(of_viewer, weights=weights), abs=1e-12)
        else:
            assert np.isnan(figure)


@many
@given(cases())
def test_log_loss_and_relative_cross_entropy_equal_those_of_scikit_learn(
    case: tuple[np.ndarray, np.ndarray, Draws],
) -> None:
    labels, probabilities, draws = case
    constant = np.full(len(labels), 0.3)
    losses = metrics.log_loss(labels, probabilities, draws)
    saved = metrics.relative_cross_entropy(labels, probabilities, 0.3, draws)
    for draw in range(len(draws.weight)):
        rows = rows_of(draws, draw)
        loss, of_constant = (
            theirs.log_loss(labels[rows], each[rows], labels=[False, True]) for each in (probabilities, constant)
        )
        assert losses[draw] == pytest.approx(loss, rel=1e-9)
        assert saved[draw] == pytest.approx(100 * (1 - loss / of_constant), abs=1e-9)


@many
@given(st.integers(1, 8), st.integers(2, 12), st.integers(1, 15), st.integers(0, 2**32))
def test_ndcg_equals_that_of_scikit_learn(viewers: int, candidates: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gains = rng.random((viewers, candidates))
    scores = rng.permuted(np.tile(np.arange(candidates), (viewers, 1)), axis=1).astype(float)
    expected = [theirs.ndcg_score(gains[v : v + 1], scores[v : v + 1], k=k) for v in range(viewers)]
    np.testing.assert_allclose(metrics.ndcg(gains, scores, k), expected, rtol=1e-9)


def test_ndcg_ignores_padding_and_is_nan_without_gains() -> None:
    gains = np.array([[0.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    scores = np.array([[2.0, 1.0, -np.inf], [1.0, 2.0, 3.0]])
    of_viewer = metrics.ndcg(gains, scores, 2)
    assert of_viewer[0] == pytest.approx(1 / np.log2(3))
    assert np.isnan(of_viewer[1])


def test_recall_is_the_share_of_relevant_posts_that_were_found() -> None:
    wanted = np.array([[True, True, False, False], [False, False, False, True], [False] * 4])
    found = np.array([[1, 2], [2, -1], [0, 1]])
    of_viewer = metrics.recall(found, wanted)
    assert of_viewer[:2].tolist() == [0.5, 0.0]
    assert np.isnan(of_viewer[2])


def test_calibration_error_is_zero_if_each_prediction_is_the_rate_of_its_bin() -> None:
    probabilities = np.repeat([0.25, 0.75], 40 * metrics.BINS)
    labels = np.tile([True, False, False, False], 10 * metrics.BINS).tolist()
    labels += np.tile([True, True, True, False], 10 * metrics.BINS).tolist()
    draws = Draws.of(np.arange(len(labels)), replicates=2)
    assert metrics.calibration_error(np.array(labels), probabilities, draws)[0] == pytest.approx(0)
    assert metrics.calibration_ratio(np.array(labels), probabilities, draws)[0] == pytest.approx(1)


def test_calibration_ratio_is_the_factor_of_an_overestimate() -> None:
    labels = np.tile([True, False, False, False, False], 100)
    draws = Draws.of(np.arange(len(labels)), replicates=2)
    probabilities = np.full(len(labels), 0.4)
    assert metrics.calibration_error(labels, probabilities, draws)[0] == pytest.approx(0.2)
    assert metrics.calibration_ratio(labels, probabilities, draws)[0] == pytest.approx(2)


def test_the_loss_of_a_certain_wrong_prediction_is_finite() -> None:
    draws = Draws.of(np.arange(2), replicates=1)
    assert 1 < metrics.log_loss(np.array([True, False]), np.array([0.0, 0.0]), draws)[0] < 20


def test_an_interval_over_viewers_has_the_width_of_the_standard_error() -> None:
    rng = np.random.default_rng(1)
    viewer = np.repeat(np.arange(400), 3)
    values = np.repeat(rng.normal(size=400), 3)  # equal rows of a viewer: 1,200 rows have the information of 400
    estimate = Estimate.of(Draws.of(viewer, replicates=2_000).mean(values))
    half = 1.96 * values.std() / np.sqrt(400)
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.1)


def test_undefined_draws_do_not_widen_an_interval() -> None:
    estimate = Estimate.of(np.array([0.5, np.nan, 0.4, 0.6]))
    assert [estimate.value, estimate.low, estimate.high] == pytest.approx([0.5, 0.405, 0.595])
    assert np.isnan(Estimate.of(np.array([np.nan, np.nan])).low)


def test_draws_without_viewers_are_refused() -> None:
    with pytest.raises(ValueError, match="no viewers"):
        Draws.of(np.empty(0, np.int64))
