"""The warm-up: synthetic requests through the pipeline before a worker reports that it is ready.

The first use of a component compiles, imports or connects, which takes seconds; the first viewers would wait for it.
The warm-up needs no list of these. Events of a small synthetic world take the path of real ones into a temporary store
and index. Then requests of every kind pass through the pipeline, with the models and the Redis that will serve.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Final

import numpy as np

from feed_worker.candidates.ports import ModelEngine, UserStateStore
from feed_worker.candidates.query import Query
from feed_worker.documents.build import explanation_of, feed_of
from feed_worker.framework.budgets import STAGE_BUDGETS_MS
from feed_worker.framework.pipeline import Pipeline
from feed_worker.framework.request_run import Result
from feed_worker.parameters import Parameters
from feed_worker.pipeline import foryou_pipeline
from feed_worker.replica.reader import Records, ReplicaState
from infra.ports.clock import DAY_MS, WallClock
from phoenix.index.retrieval_index import VectorIndex
from thunder_ingest.counts.columns import COUNT_COLUMNS
from thunder_ingest.events import (
    KINDS,
    Block,
    Engagement,
    FeedRequest,
    Follow,
    GraphEvent,
    MuteKeyword,
    PostCounts,
    PostCreated,
    PostDeleted,
    PostEmbedding,
    PostEvent,
    PostLabeled,
    key_of_id,
    pack,
)
from thunder_ingest.events.ids import id64
from thunder_ingest.posts.store import PostStore
from thunder_ingest.posts.table import PostTable
from thunder_ingest.users.compact_form import encode
from thunder_ingest.users.entries import entries_by_user
from thunder_ingest.users.state import UserState, decode

VIEWER: Final = "foryou.warm-up"
NEW_VIEWER: Final = "foryou.warm-up.new"
REQUESTS: Final[Sequence[dict[str, Any]]] = (
    {"explain": True},
    {"in_network_only": True},
    {"exclude_videos": True, "langs": ["en"]},
    {"seen_ids": [1, 2], "after": "a page"},
)
_POSTS: Final = 2_000  # more than the initial capacity of a store, so that it grows
_AUTHORS: Final = 50


def warm_up_pipeline(
    model: ModelEngine, users: UserStateStore, variants: Sequence[Parameters], rankers: Mapping[str, ModelEngine]
) -> list[Result]:
    """Make feeds of every kind, with each set of parameters. Writes nothing to Redis. For any thread.

    Errors of components are logged, as in service.

    Args:
        model: will serve.
        users: the users' state in Redis; read, and its results ignored.
        variants: the parameters of all variants of experiments.
        rankers: the models of experiments, by the checkpoint that their parameters name.

    Returns:
        the results, which are for tests.

    Raises:
        redis.RedisError: Redis does not answer.

    """
    now_ms = WallClock().now_ms()
    replica = _replica_state(model, now_ms)
    pipeline = foryou_pipeline(
        replica.store,
        replica.index,
        model,
        _SyntheticUsers(users, now_ms),
        rankers,
        budgets_ms=dict.fromkeys(STAGE_BUDGETS_MS, math.inf),  # a compilation may take longer than any budget
    )
    results = [result for parameters in variants for result in _results(pipeline, parameters, now_ms)]
    for result in results:
        feed_of(result, replica.store, now_ms, [VIEWER])
        explanation_of(result, replica.store)
    replica.store.expire(now_ms + DAY_MS + replica.store.limits.max_age_ms)
    return results


class _SyntheticUsers(UserStateStore):
    """One viewer with every kind of entry, and one with none. Each read also reads Redis, which has neither."""

    def __init__(self, users: UserStateStore, now_ms: int) -> None:
        entries = entries_by_user(_user_events(now_ms))
        self._fields = {kind.encode(): encode(kind, each) for kind, each in entries[VIEWER].items()}
        self._users = users

    def read(self, users: Sequence[str]) -> list[UserState]:
        self._users.read(users)
        return [decode(self._fields if user == VIEWER else {}) for user in users]

    def add_served(self, user: str, post_ids: Sequence[int], at_ms: int, request_id: str) -> None:
        """Write nothing: the feeds are not shown."""


def _results(pipeline: Pipeline, parameters: Parameters, now_ms: int) -> list[Result]:
    return pipeline.run(
        [
            Query(
                request=FeedRequest(request_id=VIEWER, user_id=viewer, at=now_ms, **options),
                user_id=id64(viewer),
                user_form=viewer,
                now_ms=now_ms,
                deadline_at=now_ms + DAY_MS,
                size=parameters.result_size,
                parameters=parameters,
            )
            for viewer, options in product((VIEWER, NEW_VIEWER), REQUESTS)
        ]
    )


def _replica_state(model: ModelEngine, now_ms: int) -> ReplicaState:
    """The replica of the synthetic world."""
    replica = ReplicaState(PostStore(), VectorIndex(), WallClock(), (model.version,))
    table = PostTable(DAY_MS)
    vector = (np.ones(model.config.embed_dim, np.float32) / model.config.embed_dim**0.5).tobytes()
    totals = [number + 1 for number in range(COUNT_COLUMNS)]
    for events in _post_events(now_ms):
        posts: Records = [(key, value) for key, value, _ in table.changes(events, now_ms).records]
        ids = [int(key) for key, value in posts if key and value]
        vectors = [PostEmbedding(post_id=each, model_version=model.version, vector=vector) for each in ids]
        counts = [PostCounts(post_id=each, at=now_ms, totals=totals) for each in ids]
        replica.apply({"thunder-posts": posts})
        replica.apply({"post-embeddings": [(key_of_id(each.post_id), pack(each)) for each in vectors]})
        replica.apply({"post-counts": [(key_of_id(each.post_id), pack(each)) for each in counts]})
    return replica


def _post_events(now_ms: int) -> Iterator[list[PostEvent]]:
    """Posts of every kind, each a reply, repost or quote of the one before; then an edit, a label and a deletion."""
    yield [_post(number, now_ms - 1_000 * (_POSTS - number)) for number in range(1, _POSTS + 1)]
    yield [
        _post(_POSTS, now_ms),
        PostLabeled(post_id=_POSTS - 1, author_id=_author(_POSTS - 1), at=now_ms, label="adult"),
        PostDeleted(post_id=_POSTS - 2, author_id=_author(_POSTS - 2), at=now_ms),
        PostCreated(post_id=VIEWER, author_id=VIEWER, at=now_ms, text="words " * 100),
    ]


def _post(number: int, at: int) -> PostCreated:
    kind, before = KINDS[number % len(KINDS)], number - 1 or None
    return PostCreated(
        post_id=number,
        author_id=_author(number),
        at=at,
        kind=kind,
        text=f"a word, and another {number}",
        lang="en",
        conversation_id=before if kind == "reply" else None,
        in_reply_to_post_id=before if kind == "reply" else None,
        source_post_id=before if kind in ("repost", "quote") else None,
        video_ms=DAY_MS if number % 3 == 0 else None,
    )


def _author(number: int) -> int:
    return number % _AUTHORS + 1


def _user_events(now_ms: int) -> Iterator[Engagement | GraphEvent]:
    for number in range(1, 200):
        at, author, undo = now_ms - 60_000 * number, _author(number), number % 10 == 0
        yield Engagement(at=at, user_id=VIEWER, post_id=number, author_id=author, action="favorite", undo=undo)
    for author in range(1, _AUTHORS // 2):
        yield Follow(at=now_ms, user_id=VIEWER, target_id=author)
    yield Block(at=now_ms, user_id=VIEWER, target_id=_AUTHORS)
    yield MuteKeyword(at=now_ms, user_id=VIEWER, keyword="another 1")
