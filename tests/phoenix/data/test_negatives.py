"""What the ranker is told of posts that a viewer was not shown."""

import numpy as np
import pytest

from phoenix.data.negatives import with_negatives
from phoenix.features.actions import ACTION_COUNT, DWELL_TIME
from phoenix.features.inputs import CandidateRows, candidate_rows
from phoenix.models.configs import ModelConfig
from phoenix.training.losses import RankingTargets
from tests.phoenix.builders import some_candidates
from thunder_ingest.events import ACTION_INDEX

FAVORITE, REPORT = ACTION_INDEX["favorite"], ACTION_INDEX["report"]
POSTS = np.arange(6).reshape(3, 2)
Asked = tuple[CandidateRows, RankingTargets]


@pytest.fixture
def asked(tiny: ModelConfig) -> Asked:
    weights = np.ones((3, 2, ACTION_COUNT), np.float32)
    weights[2, 1] = 0  # no candidate
    return candidate_rows(tiny, some_candidates(tiny, 3, 2), 0, 2), RankingTargets(weights.copy(), weights)


def test_the_slate_before_comes_behind_as_what_nothing_follows_on(asked: Asked) -> None:
    candidates, targets = with_negatives(np.array([1, 2, 3]), POSTS, *asked, weight=0.5)
    for name in ("post", "author", "tokens", "age"):
        column, before = getattr(candidates, name), getattr(asked[0], name)
        np.testing.assert_array_equal(column[:, :2], before)
        np.testing.assert_array_equal(column[:, 2:], before[[2, 0, 1]])
    np.testing.assert_array_equal(candidates.surface, asked[0].surface)
    np.testing.assert_array_equal(targets.labels[:, :2], asked[1].labels)
    np.testing.assert_array_equal(targets.weights[:, :2], asked[1].weights)
    assert not targets.labels[:, 2:].any()
    assert targets.weights[:, 2:, FAVORITE].tolist() == [[0.5, 0.0], [0.5, 0.5], [0.5, 0.5]]


def test_nothing_is_said_of_complaints_and_of_how_long_it_would_have_held(asked: Asked) -> None:
    _, targets = with_negatives(np.array([1, 2, 3]), POSTS, *asked, weight=0.5)
    assert not targets.weights[:, 2:, [REPORT, DWELL_TIME]].any()


def test_what_a_viewer_was_shown_in_the_slate_before_is_no_negative(asked: Asked) -> None:
    _, targets = with_negatives(np.array([1, 1, 3]), POSTS, *asked, weight=0.5)
    assert targets.weights[:, 2:].any(axis=(1, 2)).tolist() == [True, False, True]


def test_a_post_that_stands_in_both_slates_is_no_negative(asked: Asked) -> None:
    posts = np.array([[1, 2], [2, 3], [4, 5]])
    _, targets = with_negatives(np.array([1, 2, 3]), posts, *asked, weight=0.5)
    assert targets.weights[1, 2:, FAVORITE].tolist() == [0.5, 0.0]
