"""The state that the flows derive from the log: the actual one, and the expected one from one pass over the log."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import redis

from feed_worker.replica.reader import Replica
from infra.ports.clock import WallClock
from infra.ports.redis import Client as RedisClient
from infra.ports.redis import connect
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from phoenix.index.retrieval_index import VectorIndex
from tests.e2e.conftest import eventually
from thunder_ingest.counts.columns import COUNT_COLUMNS, DWELL_TIME, IMPRESSIONS
from thunder_ingest.events import (
    ACTION_INDEX,
    Engagement,
    EngagementEvent,
    GraphEvent,
    Impression,
    Post,
    PostCounts,
    PostEvent,
    Refused,
    decode,
    unpack_counts,
    unpack_dead_letter,
    unpack_post,
)
from thunder_ingest.events.ids import id64
from thunder_ingest.posts.store import PostStore
from thunder_ingest.posts.table import PostTable, changelog
from thunder_ingest.users.entries import entries_by_user
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.state import UserState

NONE = np.zeros(0, np.int64)


Place = tuple[str, int, int]
"""The topic, partition and offset of a message."""


class DerivedState(NamedTuple):
    """All state that is derived from posts, engagements and the social graph."""

    posts: dict[int, Post | None]
    """The changelog: the last record of each post, None for a tombstone."""
    counts: dict[int, list[int]]
    """The totals by post id."""
    users: dict[str, dict[str, list[Any]]]
    stored: dict[int, dict[str, Any]]
    """The columns of each post in the store of a worker."""
    in_network: dict[str, list[int]]
    """The in-network posts of each user, newest first."""
    refused: set[Place]
    """Messages with at least one dead letter."""


def actual_state(settings: Settings) -> DerivedState:
    """The state in Kafka and Redis, and the post store of a worker that has read it."""
    posts = {int(key): _post(value) for key, value in _compacted(settings, "thunder-posts").items()}
    counts = [unpack_counts(value) for value in _compacted(settings, "post-counts").values() if value]
    store = PostStore()
    replica = Replica(settings, store, VectorIndex(), WallClock(), "none")
    replica.start()
    assert eventually(replica.caught_up.is_set)
    replica.stop()
    assert replica.failure is None
    letters = [unpack_dead_letter(m.value() or b"") for batch in scan(settings, ["dead-letters"]) for m in batch]
    refused = {(letter.topic, letter.partition, letter.offset) for letter in letters}
    client = connect(settings)
    users = _users(client)
    client.close()
    return _derived_state(posts, counts, users, store, refused)


def expected_state(settings: Settings, empty: redis.Redis) -> DerivedState:
    """The state from a single pass over the log. `empty` is an empty Redis for the state of the users."""
    posts, others = PostTable(settings.remembered_ms), list[EngagementEvent | GraphEvent]()
    served = dict[int, Post | None]()
    events, refused = _log(settings)
    for event in events:
        if not isinstance(event, PostEvent):
            others.append(event)
        elif post := posts.apply(event, event.at):
            served[post.post_id] = _post(changelog(post)[1])
    counts = expected_counts(others)
    UserStates(empty).write(entries_by_user(others), "0")
    store = PostStore()
    store.apply([post for post in served.values() if post is not None and post.is_live])
    store.apply_counts(counts)
    return _derived_state(served, counts, _users(empty), store, refused)


def expected_counts(events: Iterable[EngagementEvent | GraphEvent]) -> list[PostCounts]:
    """The counts by a few lines: the newest event of an account, a post and an action decides; an undo wins a tie."""
    newest, at = dict[tuple[int, int, int], tuple[int, bool, int]](), dict[int, int]()
    for event in events:
        if isinstance(event, Impression | Engagement):
            column, undo, amount = IMPRESSIONS, False, 1
            if isinstance(event, Engagement):
                column, undo = ACTION_INDEX[event.action], bool(event.undo)
                amount = event.dwell_ms or 0 if column == DWELL_TIME else 1
            voice = id64(event.post_id), id64(event.user_id), column
            newest[voice] = max(newest.get(voice, (0, False, 0)), (event.at, undo, 0 if undo else amount))
            at[voice[0]] = max(at.get(voice[0], 0), event.at)
    counts = {post_id: PostCounts(post_id=post_id, at=at[post_id], totals=[0] * COUNT_COLUMNS) for post_id in at}
    for (post_id, _, column), (_, _, amount) in newest.items():
        counts[post_id].totals[column] += amount
    return list(counts.values())


def _log(settings: Settings) -> tuple[list[PostEvent | EngagementEvent | GraphEvent], set[Place]]:
    """The valid events of the input topics, and the places of the malformed messages."""
    events, refused = list[PostEvent | EngagementEvent | GraphEvent](), set[Place]()
    for messages in scan(settings, ["posts", "engagements", "social-graph"]):
        for message in messages:
            topic = message.topic() or ""
            try:
                events.append(decode(topic, message.value()))
            except Refused:
                refused.add((topic, message.partition() or 0, message.offset() or 0))
    return events, refused


def _compacted(settings: Settings, topic: str) -> dict[bytes, bytes | None]:
    return {message.key() or b"": message.value() for batch in scan(settings, [topic]) for message in batch}


def _post(value: bytes | None) -> Post | None:
    return None if value is None else unpack_post(value)


def _users(client: RedisClient) -> dict[str, UserState]:
    keys = client.scan_iter("user:*")
    names = sorted(key.decode().removeprefix("user:{").removesuffix("}") for key in keys)
    return dict(zip(names, UserStates(client).read(names), strict=True))


def _derived_state(
    posts: dict[int, Post | None],
    counts: list[PostCounts],
    users: dict[str, UserState],
    store: PostStore,
    refused: set[Place],
) -> DerivedState:
    return DerivedState(
        posts=posts,
        counts={record.post_id: record.totals for record in counts},
        users={name: _user_fields(state) for name, state in users.items()},
        stored=_stored(store, [post_id for post_id, post in posts.items() if post is not None]),
        in_network={name: _in_network(store, int(name), state) for name, state in users.items()},
        refused=refused,
    )


def _user_fields(state: UserState) -> dict[str, list[Any]]:
    """The fields of a user that flows write, as lists."""
    fields = ("positions", "following", "blocks", "blocked_by", "mutes", "subscriptions", "keywords", "seen")
    return {field: list(getattr(state, field)) for field in fields}


def _stored(store: PostStore, post_ids: list[int]) -> dict[int, dict[str, Any]]:
    columns = store.columns(store.rows_of(np.array(post_ids, np.int64)))._asdict()
    names = {"labels": store.label_names, "lang": store.language}  # their codes depend on the store
    plain = {
        name: [names[name](code) for code in column.tolist()] if name in names else column.tolist()
        for name, column in columns.items()
    }
    return {
        post_id: dict(zip(plain, row, strict=True)) for post_id, *row in zip(post_ids, *plain.values(), strict=True)
    }


def _in_network(store: PostStore, viewer: int, state: UserState) -> list[int]:
    rows = store.in_network(state.following, viewer, NONE, store.newest_at)
    post_ids: list[int] = store.columns(rows).post_id.tolist()
    return post_ids
