"""The derived state of a log against a simple model of its events, under duplicates, disorder and crashes.

Events arrive late, twice and in any order. Batches end anywhere. Flows are killed and replay from their last snapshot.
User state is compacted, and workers read the changelog in batches. The state must not depend on any of it. `Derived`
runs the real parts, `said` is the model.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.thunder_ingest.posts.test_reads_agree import original_of
from thunder_ingest.counts.columns import COUNT_COLUMNS
from thunder_ingest.counts.table import Changes, CountTable, changes_of
from thunder_ingest.events import (
    ACTION_INDEX,
    ACTIONS,
    IMPRESSION,
    KINDS,
    ORIGINAL,
    QUOTE,
    REPLY,
    REPOST,
    Block,
    Engagement,
    EngagementEvent,
    Follow,
    GraphEvent,
    Impression,
    MuteKeyword,
    Post,
    PostCounts,
    PostCreated,
    PostDeleted,
    PostEvent,
    PostLabeled,
    Unblock,
    Unfollow,
    UnmuteKeyword,
    unpack_post,
)
from thunder_ingest.events.redis_keys import user_key
from thunder_ingest.posts.store import PostStore
from thunder_ingest.posts.table import Change, PostTable, changelog, from_event
from thunder_ingest.users.entries import entries_by_user
from thunder_ingest.users.history import WINDOW_MS
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.state import UserState, compact

Published = PostEvent | EngagementEvent | GraphEvent
Feed = list[int]

T0 = 1_700_000_000_000
STEP_MS = WINDOW_MS // 2
"""Between two times: neighbours are one position of a history, and so are neighbours of neighbours."""
AGE_MS = 1_000 * STEP_MS
NOW = T0 + 10 * STEP_MS
USERS = (1, 2, 3)
POSTS = range(10, 14)

DONE: dict[type, str] = {Follow: "following", Block: "blocks"}  # mutes and subscriptions go the same way
UNDONE: dict[type, str] = {Unfollow: "following", Unblock: "blocks"}


def author_of(post_id: int) -> int:
    return USERS[post_id % 3]


class Left(NamedTuple):
    """The state that a log leads to."""

    served: dict[int, Post]
    """The posts in the changelog that are live."""
    columns: dict[int, tuple[Any, ...]]
    """Of each post in a worker's store: author, time, kind, labels, and counts."""
    users: dict[int, dict[str, Any]]
    feeds: dict[int, Feed]
    """For each user the unseen posts by followed authors, newest first."""
    counts: dict[int, list[int]]


# --- the model ------------------------------------------------------------------------------------------------------


def said(events: Sequence[Published]) -> Left:
    """The state that events lead to."""
    served, counts = said_of_posts(events), said_of_counts(events)
    users = {user: said_of_user(user, events) for user in USERS}
    columns = {
        id_: (post.author_id, post.created_at, post.kind, {name for name, at in post.labels.items() if at > 0})
        for id_, post in served.items()
    }
    return Left(
        served,
        {id_: (*row, counts.get(id_, [0] * COUNT_COLUMNS)) for id_, row in columns.items()},
        users,
        {user: said_feed(served, user, state) for user, state in users.items()},
        counts,
    )


def newest(words: Iterable[tuple[Hashable, int, bool]]) -> dict[Any, tuple[int, bool]]:
    """Time and flag of the newest event on each thing; at equal times True wins."""
    last: dict[Any, tuple[int, bool]] = {}
    for thing, at, done in words:
        last[thing] = max(last.get(thing, (0, False)), (at, done))
    return last


def said_of_posts(events: Sequence[Published]) -> dict[int, Post]:
    """A post has its newest content, unless a deletion is as new, and is as old as its oldest."""
    served = {}
    labels = newest(((e.post_id, e.label), e.at, not e.removed) for e in of(PostLabeled, events))
    for post_id in POSTS:
        created = [e for e in of(PostCreated, events) if e.post_id == post_id]
        deleted_at = max((e.at for e in of(PostDeleted, events) if e.post_id == post_id), default=0)
        content = max(created, key=content_order, default=None)
        if content is not None and content.at > deleted_at:
            served[post_id] = msgspec.structs.replace(
                from_event(content),
                created_at=min(e.at for e in created),
                deleted_at=deleted_at,
                labels={name: at if on else -at for (id_, name), (at, on) in labels.items() if id_ == post_id},
            )
    return served


def content_order(event: PostCreated) -> tuple[int, ...]:
    """At one time the shorter text counts, then the greater content, field by field."""
    ids = event.in_reply_to_post_id, event.source_post_id
    return event.at, -len(event.text or ""), KINDS.index(event.kind), *(int(id_ or 0) for id_ in ids)


def said_of_user(user: int, events: Sequence[Published]) -> dict[str, Any]:
    """The edges, seen posts and history of a user."""
    edges = [e for e in of(GraphEvent, events) if not isinstance(e, MuteKeyword | UnmuteKeyword)]
    safer = {Unfollow, Block}
    last = newest((((DONE | UNDONE)[type(e)], e.user_id, e.target_id), e.at, type(e) in safer) for e in edges)
    standing = {edge for edge, (_, is_safer) in last.items() if is_safer is (edge[0] != "following")}
    state: dict[str, Any] = {
        kind: {target for kind_, user_, target in standing if (kind_, user_) == (kind, user)} for kind in DONE.values()
    }
    state["blocked_by"] = {blocker for kind, blocker, blocked in standing if (kind, blocked) == ("blocks", user)}
    words = [e for e in of(MuteKeyword | UnmuteKeyword, events) if e.user_id == user]
    muted = newest((e.keyword, e.at, type(e) is MuteKeyword) for e in words)
    state["keywords"] = {word for word, (_, on) in muted.items() if on}
    own = [e for e in of(EngagementEvent, events) if e.user_id == user]
    state["seen"] = {e.post_id for e in own if not is_undo(e)}
    state["history"] = [position for post_id in POSTS for position in said_history(post_id, own)]
    return state


def said_history(post_id: int, own: Sequence[EngagementEvent]) -> list[tuple[int, int, set[str]]]:
    """One position per visit to a post; its time is that of the newest action that counts."""
    own = [e for e in own if e.post_id == post_id]
    undone = {(e.action, e.at) for e in of(Engagement, own) if e.undo}
    goes: list[list[EngagementEvent]] = []
    for event in sorted((e for e in own if not is_undo(e)), key=lambda e: e.at):
        if not goes or event.at - goes[-1][-1].at > WINDOW_MS:
            goes.append([])
        goes[-1].append(event)
    positions = []
    for go in goes:
        standing = [
            e
            for e in go
            if isinstance(e, Impression) or not any(action == e.action and at >= e.at for action, at in undone)
        ]
        if standing:
            actions = {e.action for e in of(Engagement, standing)}
            positions.append((post_id, max(e.at for e in standing), actions))
    return positions


def said_feed(posts: dict[int, Post], viewer: int, state: dict[str, Any]) -> Feed:
    """Visible are replies to originals and quotes, and answers of followed authors to them; no reposts of own posts."""

    def stands_alone(post_id: int) -> bool:
        return post_id in posts and posts[post_id].kind in (ORIGINAL, QUOTE)

    def visible(post: Post) -> bool:
        if post.kind == REPOST:
            original = original_of(posts, post)
            return original not in posts or author_of(original) != viewer
        if post.kind != REPLY or stands_alone(post.in_reply_to_post_id):
            return True
        parent = posts.get(post.in_reply_to_post_id)
        if parent is None or parent.kind != REPLY:
            return False
        return stands_alone(parent.in_reply_to_post_id) and parent.author_id in state["following"]

    shown = [post for id_, post in posts.items() if id_ not in state["seen"] and post.author_id in state["following"]]
    return [post.post_id for post in sorted(filter(visible, shown), key=lambda p: (-p.created_at, -p.post_id))]


def said_of_counts(events: Sequence[Published]) -> dict[int, list[int]]:
    """The number of accounts whose newest event of an action is not an undo; an undo wins at equal times."""
    totals: dict[int, list[int]] = {}
    acted = of(EngagementEvent, events)
    last = newest(((e.post_id, column_of(e), e.user_id), e.at, is_undo(e)) for e in acted)
    for (post_id, column, _), (_, undone) in last.items():
        totals.setdefault(post_id, [0] * COUNT_COLUMNS)[column] += not undone
    return totals


def column_of(event: EngagementEvent) -> int:
    return ACTION_INDEX[event.action] if isinstance(event, Engagement) else IMPRESSION


def of(type_: Any, events: Sequence[Published]) -> list[Any]:
    return [event for event in events if isinstance(event, type_)]


def is_undo(event: EngagementEvent) -> bool:
    return isinstance(event, Engagement) and event.undo is True


# --- the real parts -------------------------------------------------------------------------------------------------


class Derived:
    """The flows and a worker on a log; after a crash they resume from the last snapshot."""

    def __init__(self, log: Sequence[Published], client: redis.Redis) -> None:
        self._log, self._redis = log, cast(Any, client)  # typed wider than what it returns
        self._users = UserStates(client)
        self._table, self._counts = PostTable(AGE_MS), CountTable(AGE_MS)
        self._next, self._snapshot = 0, 0
        self._voices: list[Changes] = []
        self._changelog, self._counted = list[Change](), list[PostCounts]()
        self._store, self._copied = PostStore(), (0, 0)

    def read(self, messages: int) -> None:
        """Take a batch of messages."""
        batch = self._log[self._next : self._next + messages]
        for event in of(PostEvent, batch):
            if (post := self._table.apply(event, NOW)) is not None:
                self._changelog.append(changelog(post))
        others = of(EngagementEvent | GraphEvent, batch)
        self._users.write(entries_by_user(others), f"{self._next}-{self._next + len(batch)}")
        self._counts.add(changes_of(others), NOW)
        drained = self._counts.drain(NOW)
        self._counted += drained.records
        self._voices.append(drained.changes)
        self._next += len(batch)

    def snapshot(self) -> None:
        """Finish an epoch."""
        self._snapshot = self._next

    def die(self) -> None:
        """Lose all memory."""
        self._next = self._snapshot
        self._counts, self._table = CountTable(AGE_MS), PostTable(AGE_MS)
        for voices in self._voices:
            self._counts.restore(voices)
        self._counts.restored()
        for _, value, headers in self._changelog:
            self._table.restore(value, headers)

    def compact(self) -> None:
        """Compact the Redis hash of each user."""
        for user in USERS:
            bases, tails, _ = compact(self._redis.hgetall(key := user_key(str(user))))
            if tails:
                self._redis.hset(key, mapping=bases)
                self._redis.hdel(key, *tails)

    def copy(self) -> None:
        """Let the worker read the records since its last read."""
        posts, counts = self._copied
        put_into(self._store, self._changelog[posts:], self._counted[counts:])
        self._copied = len(self._changelog), len(self._counted)

    def left(self) -> Left:
        """The state after all reads."""
        self.read(len(self._log))
        self.copy()
        states = dict(zip(USERS, self._users.read([str(user) for user in USERS]), strict=True))
        last = {int(key): value for key, value, _ in self._changelog}  # the log after compaction
        posts = {id_: unpack_post(value) for id_, value in last.items() if value is not None}
        return Left(
            {id_: post for id_, post in posts.items() if post.is_live},
            columns_of(self._store),
            {user: plain(state) for user, state in states.items()},
            {user: feed_of(self._store, user, state) for user, state in states.items()},
            {record.post_id: record.totals for record in self._counted},
        )


def put_into(store: PostStore, changes: Sequence[Change], counted: Sequence[PostCounts]) -> None:
    """Apply a batch of records like a worker: only the last record of a post counts."""
    last = {int(key): value for key, value, _ in changes}
    store.remove([post_id for post_id, value in last.items() if value is None])
    store.apply([unpack_post(value) for value in last.values() if value is not None])
    store.apply_counts(counted)


def columns_of(store: PostStore) -> dict[int, tuple[Any, ...]]:
    rows = store.rows_of(np.array(POSTS))
    columns = store.columns(rows[rows >= 0])
    labels = [set(store.label_names(mask)) for mask in columns.labels.tolist()]
    fields = (columns.author_id, columns.created_at, columns.kind)
    rest = zip(*(column.tolist() for column in fields), labels, columns.totals.tolist(), strict=True)
    return dict(zip(columns.post_id.tolist(), rest, strict=True))


def plain(state: UserState) -> dict[str, Any]:
    positions = [
        (int(p["post_id"]), int(p["at"]), {name for bit, name in enumerate(ACTIONS) if int(p["actions"]) >> bit & 1})
        for p in state.positions
    ]
    edges = {kind: set(getattr(state, kind).tolist()) for kind in (*DONE.values(), "blocked_by", "seen")}
    return edges | {"keywords": set(state.keywords), "history": sorted(positions, key=lambda each: each[:2])}


def feed_of(store: PostStore, viewer: int, state: UserState) -> Feed:
    rows = store.in_network(state.following, viewer, state.seen, NOW)
    post_ids: Feed = store.columns(rows).post_id.tolist()
    return post_ids


# --- disorder -------------------------------------------------------------------------------------------------------

# few things and few times, so that most events meet another about the same thing, often at the same time
times = st.sampled_from([0, 1, 2, 5]).map(lambda step: T0 + step * STEP_MS)
users = st.sampled_from(USERS)
posts = st.sampled_from(POSTS)
others = st.sampled_from([(1, 2), (1, 3), (2, 1)])


def about_a_post(type_: type[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Published]:
    def about(post_id: int, **rest: Any) -> Any:
        return type_(post_id=post_id, author_id=author_of(post_id), **rest)

    return st.builds(about, posts, at=times, **fields)


creations = about_a_post(
    PostCreated,
    kind=st.sampled_from(KINDS),
    text=st.sampled_from(["", "a", "bb"]),
    in_reply_to_post_id=posts,
    source_post_id=posts,
)
edges = st.builds(
    lambda type_, pair, at: type_(user_id=pair[0], target_id=pair[1], at=at),
    st.sampled_from([*DONE, *UNDONE]),
    others,
    times,
)
events = st.one_of(
    *[creations] * 3,  # so that there is something for the others to be about
    about_a_post(PostDeleted),
    about_a_post(PostLabeled, label=st.sampled_from(["spam", "gore"]), removed=st.booleans()),
    about_a_post(Impression, user_id=users),
    about_a_post(Engagement, user_id=users, action=st.sampled_from(["favorite", "reply"]), undo=st.booleans()),
    *[edges] * 2,
    *(
        st.builds(type_, user_id=users, keyword=st.sampled_from(["sport", "noise"]), at=times)
        for type_ in (MuteKeyword, UnmuteKeyword)
    ),
)
steps = st.lists(st.sampled_from(["read", "read", "snapshot", "die", "compact", "copy"]), min_size=8, max_size=20)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(events, min_size=12, max_size=40), steps, st.data())
def test_duplicates_disorder_and_crashes_lead_to_the_state_of_the_events_alone(
    valkey: redis.Redis, events: list[Published], steps: list[str], data: st.DataObject
) -> None:
    valkey.flushall()
    again = data.draw(st.lists(st.sampled_from(events), max_size=8), label="published again")
    log = data.draw(st.permutations(events + again), label="the log")
    derived = Derived(log, valkey)
    for step in steps:
        if step == "read":
            derived.read(data.draw(st.integers(1, 12), label="messages"))
        else:
            getattr(derived, step)()
    left, expected = derived.left(), said(events)
    for what in Left._fields:
        assert getattr(left, what) == getattr(expected, what), what
