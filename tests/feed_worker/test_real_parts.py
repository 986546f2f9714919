"""The pipeline on the real user state, the real models and the real index, instead of fixed ones."""

import threading
from itertools import count
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from feed_worker.candidates.query import Query
from feed_worker.framework.pipeline import Pipeline
from feed_worker.framework.request_run import RequestRun, Result
from feed_worker.parameters import FORYOU
from feed_worker.pipeline import foryou_pipeline
from infra.ports.clock import MINUTE_MS
from phoenix.features.inputs import PostInputs
from phoenix.index.retrieval_index import VectorIndex
from phoenix.serving.engine import Phoenix
from tests.feed_worker.builders import NOW_MS, post, store_of
from thunder_ingest.events import (
    ACTION_INDEX,
    Block,
    Engagement,
    EngagementEvent,
    FeedRequest,
    Follow,
    GraphEvent,
    Post,
)
from thunder_ingest.events.ids import id64
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.entries import updates_of
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole

VIEWER = "did:plc:viewer"
BATCH = count()
SKY, BALL = "comet telescope orbit nebula", "goal league striker referee"


@pytest.fixture(scope="module")
def model() -> Phoenix:
    model = Phoenix.seeded("nano", 7)
    model.warm_up()  # a request on a busy machine would expire before its functions are compiled
    return model


def posts() -> list[Post]:
    """Astronomy by authors 50-59 and football by authors 60-69, four posts an author."""
    authors = {author: SKY if author < 60 else BALL for author in range(50, 70)}
    return [post(10 * author + i, author, text=text) for author, text in authors.items() for i in range(4)]


def indexed(store: PostStore, model: Phoenix) -> VectorIndex:
    ids = np.array([each.post_id for each in posts()], np.int64)
    columns = store.columns(store.rows_of(ids))
    index = VectorIndex()
    inputs = PostInputs(columns.author_id, columns.tokens, columns.video_ms, columns.photos)
    index.upsert(ids, model.embed_posts(inputs), model.version)
    return index


@pytest.fixture
def users(valkey: redis.Redis) -> UserStates:
    declare_whole(valkey)
    return UserStates(valkey)


@pytest.fixture
def pipeline(model: Phoenix, users: UserStates) -> Pipeline:
    store = store_of(*posts())
    return foryou_pipeline(store, indexed(store, model), model, users)


def happened(users: UserStates, *events: EngagementEvent | GraphEvent) -> None:
    users.append([update for event in events for update in updates_of(event)], f"0-{next(BATCH)}")


def liked(post_id: int, ago: int) -> Engagement:
    return Engagement(at=NOW_MS - ago, user_id=VIEWER, post_id=post_id, author_id=post_id // 10, action="favorite")


def asked(request_id: str = "r", at: int = NOW_MS, size: int = 10) -> Query:
    request = FeedRequest(request_id=request_id, user_id=VIEWER, at=at)
    return Query(
        request=request,
        user_id=id64(VIEWER),
        user_form=VIEWER,
        now_ms=NOW_MS,
        deadline_at=at + 30 * MINUTE_MS,  # the first request may compile kernels
        size=size,
        parameters=FORYOU,
    )


def ask(pipeline: Pipeline, *request: Any, **options: Any) -> Result:
    (result,) = pipeline.run([asked(*request, **options)])
    return result


def test_retrieval_finds_posts_on_the_viewers_topic(pipeline: Pipeline, users: UserStates) -> None:
    happened(users, *(liked(10 * author, author) for author in (50, 51, 52)))
    result = ask(pipeline, size=80)
    retrieved = result.candidates.take(np.isfinite(result.candidates.retrieval_score))
    best = retrieved.take(np.argsort(-retrieved.retrieval_score)[:10])
    assert result.status == "ok"
    assert (best.posts.author_id < 60).mean() > 0.8


@pytest.mark.parametrize("followed", [(50, 51, 52), (60, 61, 62)])
def test_a_viewer_who_only_follows_gets_posts_on_the_topic_of_the_followed_accounts_by_others(
    pipeline: Pipeline, users: UserStates, followed: tuple[int, ...]
) -> None:
    happened(users, *(Follow(at=NOW_MS - 1, user_id=VIEWER, target_id=author) for author in followed))
    result = ask(pipeline, size=80)
    retrieved = result.candidates.take(np.isfinite(result.candidates.retrieval_score) & ~result.candidates.in_network)
    best = retrieved.take(np.argsort(-retrieved.retrieval_score)[:10])
    assert (best.posts.author_id // 10 == followed[0] // 10).mean() > 0.8
    others = result.candidates.take(~result.candidates.in_network)
    on_topic = others.posts.author_id // 10 == followed[0] // 10
    assert others.weighted[on_topic].min() > others.weighted[~on_topic].max()
    assert others.predictions[..., ACTION_INDEX["favorite"]].max() < 0.5, "a follow is no like of each post"


def test_blocked_authors_and_seen_posts_do_not_return(pipeline: Pipeline, users: UserStates) -> None:
    happened(users, liked(500, 5), Block(at=1, user_id=VIEWER, target_id=51), Block(at=1, user_id=52, target_id=VIEWER))
    shown = ask(pipeline, size=80).candidates.posts
    assert len(shown.post_id)
    assert not set(shown.author_id.tolist()) & {51, 52}
    assert 500 not in shown.post_id


def test_followed_authors_are_in_network(pipeline: Pipeline, users: UserStates) -> None:
    happened(users, Follow(at=1, user_id=VIEWER, target_id=61))
    shown = ask(pipeline, size=80).candidates
    assert (shown.in_network == (shown.posts.author_id == 61)).all()
    assert shown.in_network.sum() == 4


def test_the_next_feed_differs_and_a_second_computation_of_one_request_does_not(pipeline: Pipeline) -> None:
    def shown(result: Result) -> list[int]:
        post_ids: list[int] = result.candidates.posts.post_id.tolist()
        return post_ids

    first, again = shown(ask(pipeline)), shown(ask(pipeline))
    assert first == again
    later = shown(ask(pipeline, "next", NOW_MS + 1))
    assert not set(first) & set(later)
    assert len(later) == 10


def test_overlapping_batches_get_the_same_feeds_as_alone(pipeline: Pipeline, users: UserStates) -> None:
    happened(users, *(liked(10 * author, author) for author in (50, 61, 52)))
    alone = [ask(pipeline, size=size).candidates for size in range(5, 25)]
    gathered: SimpleQueue[list[RequestRun] | None] = SimpleQueue()
    overlapped = []

    def rank() -> None:
        while runs := gathered.get():
            pipeline.rank(runs)
            overlapped.extend(pipeline.finish(runs))

    ranking = threading.Thread(target=rank)
    ranking.start()
    for size in range(5, 25):
        gathered.put(pipeline.gather([asked(size=size)]))
    gathered.put(None)
    ranking.join()
    assert [each.status for each in overlapped] == ["ok"] * len(alone)
    for one, other in zip(alone, overlapped, strict=True):
        assert one.posts.post_id.tolist() == other.candidates.posts.post_id.tolist()
        assert one.score.tolist() == other.candidates.score.tolist()


def test_a_hanging_redis_fails_requests_and_serves_them_after_its_return(
    model: Phoenix, users: UserStates, valkey: redis.Redis
) -> None:
    store = store_of(*posts())
    budgets_ms = {"user_state_hydrator": 30}
    pipeline = foryou_pipeline(store, indexed(store, model), model, users, budgets_ms=budgets_ms)
    valkey.execute_command("CLIENT", "PAUSE", 1_000, "ALL")
    hung, busy = ask(pipeline), ask(pipeline)
    assert (hung.status, hung.query.degradations) == ("failed", ["user_state_hydrator: over its budget of 30 ms"])
    assert (busy.status, busy.query.degradations) == ("failed", ["user_state_hydrator: still busy"])
    valkey.ping()  # returns at the end of the pause
    results = (ask(pipeline) for _ in range(1_000))
    assert next(result.status for result in results if result.status != "failed") == "ok"


def test_a_new_engagement_counts_in_the_next_scores(pipeline: Pipeline, users: UserStates) -> None:
    """The published system caches scores for three minutes, in spite of new engagements."""

    def scores() -> dict[int, float]:
        shown = ask(pipeline, size=80).candidates
        return dict(zip(shown.posts.post_id.tolist(), shown.weighted.tolist(), strict=True))

    happened(users, liked(500, 50))
    before, again = scores(), scores()
    assert before == again
    happened(users, liked(510, 5))
    after = scores()
    assert 510 not in after
    assert all(after[post_id] != before[post_id] for post_id in before.keys() & after.keys())


def test_an_unreachable_redis_is_raised_to_the_caller(model: Phoenix) -> None:
    store = store_of(*posts())
    unreachable = UserStates(redis.Redis(port=1, retry=Retry(NoBackoff(), 0)))
    with pytest.raises(redis.ConnectionError):
        ask(foryou_pipeline(store, VectorIndex(), model, unreachable))
