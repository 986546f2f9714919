"""Known faults of the published system, through the whole pipeline: its behaviour, and ours.

The freshness of scores is in test_real_parts; faults of the post store alone are in its own tests.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from feed_worker.framework.request_run import Result
from feed_worker.parameters import FORYOU
from feed_worker.pipeline import foryou_pipeline
from infra.ports.clock import MINUTE_MS
from phoenix.index.retrieval_index import VectorIndex
from tests.feed_worker.builders import NOW_MS, FixedModel, KnownUsers, post, query, store_of, viewer
from thunder_ingest.events import ACTIONS, NEGATIVE_ACTIONS, Post
from thunder_ingest.users.history import POSITION

FRIEND, AUTHOR, STRANGER = 60, 50, 70
PLAIN = replace(FORYOU, new_author_boost=False, repeat_below=0)


def served(posts: Sequence[Post], state: Any, model: FixedModel | None = None, **asked: Any) -> Result:
    index = VectorIndex()
    pipeline = foryou_pipeline(store_of(*posts), index, model or FixedModel(), KnownUsers({"1": state}))
    (result,) = pipeline.run([query(**{"parameters": PLAIN} | asked)])
    return result


def shown(posts: Sequence[Post], state: Any, model: FixedModel | None = None, **asked: Any) -> list[int]:
    post_ids: list[int] = served(posts, state, model, **asked).candidates.posts.post_id.tolist()
    return post_ids


def favorite(probability: float) -> list[float]:
    return [probability, *(0.0 for _ in ACTIONS[1:])]


def test_five_accounts_cannot_fill_a_feed_with_one_authors_posts() -> None:
    """There, diversity counts a repost for the reposting account."""
    written = [post(i, AUTHOR) for i in range(1, 6)]
    reposts = [post(10 + i, 80 + i, "repost", source_post_id=i, source_author_id=AUTHOR) for i in range(1, 6)]
    others = [post(20 + i, 90 + i) for i in range(1, 6)]
    state = viewer(following=[*range(81, 86), *range(91, 96)])
    liked = FixedModel(lambda post_id: favorite(0.9 if post_id < 10 else 0.6))
    feed = shown([*written, *reposts, *others], state, liked, in_network_only=True)
    assert [post_id in range(11, 16) for post_id in feed] == [True, *5 * [False], *4 * [True]]


def test_a_post_without_predictions_ranks_below_all_scored_posts() -> None:
    """There, candidates beyond the maximum have no score, which counts as 0, above negative sums."""
    posts = [post(i, 50 + i, created_at=NOW_MS - (9 - i) * MINUTE_MS) for i in range(1, 5)]
    hated = FixedModel(lambda _: [float(action in NEGATIVE_ACTIONS) for action in ACTIONS])
    result = served(posts, viewer(following=[51, 52]), hated, parameters=replace(PLAIN, max_candidates=2))
    assert result.candidates.posts.post_id.tolist() == [2, 1, 4, 3]
    assert result.candidates.score.tolist() == [0, 0, 0, 0]
    assert result.candidates.scored.tolist() == [True, True, False, False]


def test_a_quote_of_a_seen_post_is_not_shown() -> None:
    """There, the quoted post is ignored."""
    posts = [post(1), post(2, FRIEND, "quote", source_post_id=1), post(3)]
    assert shown(posts, viewer(following=[FRIEND], seen=[1])) == [3]


@pytest.mark.parametrize("kind", ["repost", "quote"])
@pytest.mark.parametrize("edge", ["blocks", "blocked_by"])
def test_a_block_in_either_direction_applies_through_reposts_and_quotes(kind: Any, edge: str) -> None:
    """There, the viewer sees reposts of an author who blocks the viewer."""
    posts = [post(1, AUTHOR), post(2, FRIEND, kind, source_post_id=1, source_author_id=AUTHOR), post(3, STRANGER)]
    assert shown(posts, viewer(following=[FRIEND], **{edge: [AUTHOR]})) == [3]


def test_hidden_posts_take_no_place_among_the_selected() -> None:
    """There, labels are checked after fifty posts are selected, and dropped posts shorten the feed."""
    posts = [post(i, 100 + i, labels=["spam"] if i <= 60 else []) for i in range(1, 101)]
    liked = FixedModel(lambda post_id: favorite(0.9 if post_id <= 60 else 0.5))
    assert len(shown(posts, viewer(), liked, size=35)) == 35


def test_scores_use_the_current_history() -> None:
    """There, scores are cached for three minutes. Here the ranker gets the current state for each request."""

    class Remembering(FixedModel):
        def score(self, history: Any, candidates: Any, /) -> Any:
            lengths.append(int(history.mask.sum()))
            return super().score(history, candidates)

    lengths: list[int] = []
    state = viewer(liked=[404])
    index = VectorIndex()
    pipeline = foryou_pipeline(store_of(post(1)), index, Remembering(), KnownUsers({"1": state}))
    pipeline.run([query()])
    state.positions = np.concatenate([state.positions, np.zeros(1, POSITION)])
    pipeline.run([query()])
    assert lengths == [1, 2]


def test_the_same_state_gives_the_same_feed() -> None:
    """There, equal scores rank in the order of the sources' answers."""
    posts = [post(i, 50 + i) for i in range(1, 30)]
    same = FixedModel(lambda _: favorite(0.5))
    feeds = {tuple(shown(order, viewer(), same)) for order in (posts, posts[::-1], posts[10:] + posts[:10])}
    assert len(feeds) == 1
