"""Feeds that nobody sees, made before a worker says that it is ready.

What is compiled, imported or connected at its first use takes seconds, which the first viewers would wait for. Nothing
here knows what that is: events of a small invented world go the way of real ones, into a store and an index that are
thrown away, and requests of every kind through the pipeline, with the models and the Redis that will serve.
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
from infra.ports.clock import WallClock
from phoenix.index.retrieval_index import VectorIndex
from thunder_ingest.events import (
    ACTIONS,
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
from thunder_ingest.users.entries import by_user, updates_of
from thunder_ingest.users.state import UserState, decode

VIEWER: Final = "foryou.rehearsal"
NOBODY: Final = "foryou.rehearsal.nobody"
REQUESTS: Final[Sequence[dict[str, Any]]] = (
    {"explain": True},
    {"in_network_only": True},
    {"exclude_videos": True, "langs": ["en"]},
    {"seen_ids": [1, 2], "after": "a page"},
)
_POSTS: Final = 2_000  # more than a store begins with room for
_AUTHORS: Final = 50
_DAY_MS: Final = 86_400_000


def warm_up_pipeline(
    model: ModelEngine, users: UserStateStore, variants: Sequence[Parameters], rankers: Mapping[str, ModelEngine]
) -> list[Result]:
    """Make feeds of every kind, with each of the parameters; what is wrong with a component is logged, as ever.

    Args:
        model: that will serve.
        users: in Redis; it is asked, and nothing is written.
        variants: the parameters that feeds may be made with.
        rankers: by the checkpoint that parameters name.

    Raises:
        redis.RedisError: Redis does not answer.

    """
    now_ms = WallClock().now_ms()
    copies = _copies(model, now_ms)
    pipeline = foryou_pipeline(
        copies.store,
        copies.index,
        model,
        _Invented(users, now_ms),
        rankers,
        budgets_ms=dict.fromkeys(STAGE_BUDGETS_MS, math.inf),  # compiling takes as long as it takes
    )
    results = [result for parameters in variants for result in _results(pipeline, parameters, now_ms)]
    for result in results:
        feed_of(result, copies.store, now_ms, [VIEWER])
        explanation_of(result, copies.store)
    copies.store.expire(now_ms + _DAY_MS + copies.store.limits.max_age_ms)
    return results


class _Invented(UserStateStore):
    """Viewers who have done all there is to do, or nothing; Redis, which is asked as ever, does not know them."""

    def __init__(self, users: UserStateStore, now_ms: int) -> None:
        entries = by_user(update for event in _deeds(now_ms) for update in updates_of(event))
        self._fields = {kind.encode(): encode(kind, each) for kind, each in entries[VIEWER].items()}
        self._users = users

    def read(self, users: Sequence[str]) -> list[UserState]:
        self._users.read(users)
        return [decode(self._fields if user == VIEWER else {}) for user in users]

    def add_served(self, user: str, post_ids: Sequence[int], at_ms: int, suffix: str) -> None:
        """Nothing was served."""


def _results(pipeline: Pipeline, parameters: Parameters, now_ms: int) -> list[Result]:
    return pipeline.run(
        [
            Query(
                request=FeedRequest(request_id=VIEWER, user_id=viewer, at=now_ms, **wish),
                user_id=id64(viewer),
                user_form=viewer,
                now_ms=now_ms,
                deadline_at=now_ms + _DAY_MS,
                size=parameters.result_size,
                parameters=parameters,
            )
            for viewer, wish in product((VIEWER, NOBODY), REQUESTS)
        ]
    )


def _copies(model: ModelEngine, now_ms: int) -> ReplicaState:
    """What a worker would have of the invented world."""
    copies = ReplicaState(PostStore(), VectorIndex(), WallClock(), (model.version,))
    table = PostTable(_DAY_MS)
    vector = (np.ones(model.config.embed_dim, np.float32) / model.config.embed_dim**0.5).tobytes()
    totals = [number + 1 for number in range(len(ACTIONS) + 1)]
    for events in _news(now_ms):
        posts: Records = [(key, value) for key, value, _ in table.changes(events, now_ms).records]
        ids = [int(key) for key, value in posts if key and value]
        vectors = [PostEmbedding(post_id=each, model_version=model.version, vector=vector) for each in ids]
        counts = [PostCounts(post_id=each, at=now_ms, totals=totals) for each in ids]
        copies.apply({"thunder-posts": posts})
        copies.apply({"post-embeddings": [(key_of_id(each.post_id), pack(each)) for each in vectors]})
        copies.apply({"post-counts": [(key_of_id(each.post_id), pack(each)) for each in counts]})
    return copies


def _news(now_ms: int) -> Iterator[list[PostEvent]]:
    """Posts of every kind, each about the one before it; then what becomes of some."""
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
        video_ms=_DAY_MS if number % 3 == 0 else None,
    )


def _author(number: int) -> int:
    return number % _AUTHORS + 1


def _deeds(now_ms: int) -> Iterator[Engagement | GraphEvent]:
    for number in range(1, 200):
        at, author, undo = now_ms - 60_000 * number, _author(number), number % 10 == 0
        yield Engagement(at=at, user_id=VIEWER, post_id=number, author_id=author, action="favorite", undo=undo)
    for author in range(1, _AUTHORS // 2):
        yield Follow(at=now_ms, user_id=VIEWER, target_id=author)
    yield Block(at=now_ms, user_id=VIEWER, target_id=_AUTHORS)
    yield MuteKeyword(at=now_ms, user_id=VIEWER, keyword="another 1")
