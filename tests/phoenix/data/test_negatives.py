"""In-batch negatives: their labels and their weights."""

import numpy as np
import pytest

from phoenix.data.negatives import with_negatives
from phoenix.data.targets import RankingTargets
from phoenix.features.actions import ACTION_COUNT, DWELL_TIME
from phoenix.features.inputs import CandidateRows, candidate_rows
from phoenix.models.configs import ModelConfig
from tests.phoenix.builders import some_candidates
from thunder_ingest.events import ACTION_INDEX

FAVORITE, REPORT = ACTION_INDEX["favorite"], ACTION_INDEX["report"]
POSTS = np.arange(6).reshape(3, 2)
Ranked = tuple[CandidateRows, RankingTargets]


@pytest.fixture
def ranked(tiny: ModelConfig) -> Ranked:
    weights = np.ones((3, 2, ACTION_COUNT), np.float32)
    weights[2, 1] = 0  # no candidate
    return candidate_rows(tiny, some_candidates(tiny, 3, 2), 0, 2), RankingTargets(weights.copy(), weights)


def test_the_previous_slate_is_appended_with_all_labels_zero(ranked: Ranked) -> None:
    candidates, targets = with_negatives(np.array([1, 2, 3]), POSTS, *ranked, weight=0.5)
    for name in ("post", "author", "tokens", "age"):
        column, before = getattr(candidates, name), getattr(ranked[0], name)
        np.testing.assert_array_equal(column[:, :2], before)
        np.testing.assert_array_equal(column[:, 2:], before[[2, 0, 1]])
    for name in ("hour", "weekday"):  # those of the request
        column = getattr(candidates, name)
        np.testing.assert_array_equal(column[:, 2:], column[:, :2])
    np.testing.assert_array_equal(candidates.surface, ranked[0].surface)
    np.testing.assert_array_equal(targets.labels[:, :2], ranked[1].labels)
    np.testing.assert_array_equal(targets.weights[:, :2], ranked[1].weights)
    assert not targets.labels[:, 2:].any()
    assert targets.weights[:, 2:, FAVORITE].tolist() == [[0.5, 0.0], [0.5, 0.5], [0.5, 0.5]]


def test_negative_feedback_and_dwell_time_of_negatives_are_unknown(ranked: Ranked) -> None:
    _, targets = with_negatives(np.array([1, 2, 3]), POSTS, *ranked, weight=0.5)
    assert not targets.weights[:, 2:, [REPORT, DWELL_TIME]].any()


def test_a_previous_slate_of_the_same_viewer_gives_no_negatives(ranked: Ranked) -> None:
    _, targets = with_negatives(np.array([1, 1, 3]), POSTS, *ranked, weight=0.5)
    assert targets.weights[:, 2:].any(axis=(1, 2)).tolist() == [True, False, True]


def test_a_post_in_both_slates_is_no_negative(ranked: Ranked) -> None:
    posts = np.array([[1, 2], [2, 3], [4, 5]])
    _, targets = with_negatives(np.array([1, 2, 3]), posts, *ranked, weight=0.5)
    assert targets.weights[1, 2:, FAVORITE].tolist() == [0.5, 0.0]
