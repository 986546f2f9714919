"""Safety as a property: who may see what, in any order of events, over any partitions, processes and restarts.

Graphs of posts (reposts of quotes of replies …), accounts, labels, deletions, blocks, mutes and reports pass through
the tables of one to three processes of flows.posts, and through the partitions of `thunder-posts` into a worker.
`may_see` is the model. A check by the worker gives exactly what the model allows, and a feed never more, whether or not
the viewer was served its posts or has seen them. FORYOU_SOAK=1 runs more.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feed_worker.framework.pipeline import Pipeline
from feed_worker.parameters import FORYOU
from feed_worker.pipeline import foryou_pipeline
from feed_worker.replica.reader import ReplicaState
from flows.posts import Route
from infra.ports.clock import MINUTE_MS, WallClock
from phoenix.index.retrieval_index import VectorIndex
from tests.feed_worker.builders import NOW_MS, VIEWER, FixedModel, KnownUsers, ids, query, viewer
from thunder_ingest.events import (
    ACCOUNT_STATUSES,
    AccountState,
    AccountStatus,
    PostCreated,
    PostDeleted,
    PostEvent,
    PostLabeled,
    key_of_id,
    pack,
)
from thunder_ingest.events.ids import id64
from thunder_ingest.posts.store import PostStore
from thunder_ingest.posts.table import STATE_HEADER, PostTable
from thunder_ingest.users.state import UserState

EXAMPLES: Final = 10_000 if os.environ.get("FORYOU_SOAK") else 200
POSTS: Final = range(1, 9)
AUTHORS: Final = range(70, 75)
AGE_MS: Final = 1_000 * MINUTE_MS
NAMED: Final = {"spam": "Spam", "adult": " adult", "satire": "satire"}


class World(NamedTuple):
    """The events of a log, and the viewer."""

    posts: list[PostEvent]
    accounts: list[AccountState]
    state: UserState


# --- the model ------------------------------------------------------------------------------------------------------


class Shown(NamedTuple):
    """A live post."""

    content: PostCreated
    labels: set[str]


def live_posts(events: Sequence[PostEvent]) -> tuple[dict[int, Shown], set[int]]:
    """The live posts, and the deleted ones; no two events of a post have one time."""
    live, deleted = dict[int, Shown](), set[int]()
    for post_id in POSTS:
        own = sorted((event for event in events if event.post_id == post_id), key=lambda event: event.at)
        contents = [event for event in own if isinstance(event, PostCreated)]
        deleted_at = max((event.at for event in own if isinstance(event, PostDeleted)), default=0)
        last = {event.label.strip().lower(): event for event in own if isinstance(event, PostLabeled)}
        if contents and contents[-1].at > deleted_at:
            live[post_id] = Shown(contents[-1], {label for label, event in last.items() if not event.removed})
        elif deleted_at:
            deleted.add(post_id)
    return live, deleted


def may_see(world: World) -> set[int]:
    """The posts that the viewer may see: each post that they refer to is known, and fit to be seen."""
    live, deleted = live_posts(world.posts)
    inactive = {state.user_id for state in sorted(world.accounts, key=lambda state: state.at)}
    last = {state.user_id: state.status for state in sorted(world.accounts, key=lambda state: state.at)}
    inactive = {user for user in inactive if last[user] != "active"}
    return {post_id for post_id in live if _stands(post_id, world.state, live, deleted, inactive)}


def source_of(post_id: int, live: dict[int, Shown]) -> int | None:
    """The post that is quoted or reposted, for a repost of a repost the original; its own id for a circle."""
    content, passed = live[post_id].content, {post_id}
    source = content.source_post_id
    while content.kind == "repost" and source in live and live[source].content.kind == "repost":
        if source in passed:
            return post_id
        passed.add(source)
        source = live[source].content.source_post_id
    return None if source is None else id64(source)


def _stands(post_id: int, state: UserState, live: dict[int, Shown], deleted: set[int], inactive: set[int]) -> bool:
    content, seen, queue = {post_id}, {post_id}, [post_id]
    for each in queue:  # all that is shown
        source = source_of(each, live)
        if source is not None and (source not in live or (source == each and live[each].content.kind == "repost")):
            return False
        if source is not None and source not in seen:
            content.add(source)
            seen.add(source)
            queue.append(source)
    for each in queue:  # all that is above
        parent = live[each].content.in_reply_to_post_id
        if parent is not None and parent not in live and (each in content or parent in deleted):
            return False
        for other in (parent, source_of(each, live)):
            if other in deleted or (other == each and live[each].content.kind == "repost"):
                return False
            if other is not None and other in live and other not in seen:
                seen.add(id64(other))
                queue.append(id64(other))
    rejected = {*state.rejected.tolist()}
    return not seen & rejected and all(_fit(live[each], state, inactive) for each in seen)


def _fit(post: Shown, state: UserState, inactive: set[int]) -> bool:
    author = id64(post.content.author_id)
    hidden = {*state.blocks.tolist(), *state.blocked_by.tolist(), *state.mutes.tolist(), *inactive}
    closed = bool(post.content.subscriber_only) and author not in state.subscriptions
    labelled = "spam" in post.labels or ("adult" in post.labels and author not in state.following)
    muted = bool(state.keywords) and "spoiler" in (post.content.text or "")
    return not (author in hidden or closed or labelled or muted)


# --- worlds ---------------------------------------------------------------------------------------------------------


@st.composite
def worlds(draw: st.DrawFn) -> World:
    events: list[PostEvent] = []
    for at in range(draw(st.integers(4, 20))):
        post_id = draw(st.sampled_from(POSTS))
        kind = draw(st.sampled_from(["created", "created", "created", "deleted", "labeled"]))
        events.append(draw(_event(kind, post_id, NOW_MS - MINUTE_MS + at)))
    some = st.sets(st.sampled_from(AUTHORS), max_size=1)
    state = viewer(
        following=draw(st.sets(st.sampled_from(AUTHORS), min_size=2)),
        blocks=draw(some),
        blocked_by=draw(some),
        mutes=draw(some),
        subscriptions=draw(some),
        keywords=draw(st.sampled_from([(), ("spoiler",)])),
        seen=draw(st.sets(st.sampled_from(POSTS))),
        served=[(post_id, NOW_MS - 1) for post_id in draw(st.sets(st.sampled_from(POSTS)))],
    )
    state.rejected = ids(*draw(st.sets(st.sampled_from(POSTS), max_size=2)))
    accounts = [
        AccountState(user_id=draw(st.sampled_from(AUTHORS)), status=draw(statuses), at=NOW_MS + at)
        for at in range(draw(st.integers(0, 3)))
    ]
    return World(events, accounts, state)


statuses: st.SearchStrategy[AccountStatus] = st.sampled_from(ACCOUNT_STATUSES)


@st.composite
def _event(draw: st.DrawFn, kind: str, post_id: int, at: int) -> PostEvent:
    author = AUTHORS[post_id % len(AUTHORS)]
    if kind == "deleted":
        return PostDeleted(post_id=post_id, author_id=draw(st.sampled_from([author, 99])), at=at)
    if kind == "labeled":
        label, removed = draw(st.sampled_from([*NAMED.values()])), draw(st.sampled_from([None, None, True]))
        return PostLabeled(post_id=post_id, at=at, label=label, removed=removed)
    other = draw(st.sampled_from([each for each in (*POSTS, 404) if each != post_id]))
    return draw(
        st.sampled_from(
            [
                PostCreated(post_id=post_id, author_id=author, at=at, text=text, subscriber_only=closed, **refers)
                for text, closed in (("hello", None), ("a spoiler", None), ("hello", True))
                for refers in _references(other)
            ]
        )
    )


def _references(other: int) -> list[dict[str, Any]]:
    return [
        {},
        {"kind": "repost", "source_post_id": other},
        {"kind": "repost", "source_post_id": other},
        {"kind": "quote", "source_post_id": other},
        {"kind": "reply", "in_reply_to_post_id": other},
    ]


# --- the real parts -------------------------------------------------------------------------------------------------


def replicated(world: World, data: st.DataObject) -> PostStore:
    """The store of a worker, after flows with restarts, and partitions that are read in any order."""
    route = Route(data.draw(st.integers(1, 3), label="processes"))
    tables = {part: PostTable(AGE_MS) for part in route.parts}
    log = [*data.draw(st.permutations(world.posts), label="log"), *data.draw(st.lists(st.sampled_from(world.posts)))]
    restarts = data.draw(st.sets(st.integers(0, len(log)), max_size=3), label="restarts")
    partitions: list[list[tuple[bytes, bytes | None]]] = [[], [], []]
    changelog: list[tuple[bytes | None, Any]] = []
    for place, event in enumerate(log):
        part = route.part_of(id64(event.post_id))
        if place in restarts:
            tables[part] = PostTable(AGE_MS)
            for value, headers in changelog:
                tables[part].restore(value, headers)
        for key, value, headers in tables[part].changes([event], NOW_MS).records:
            changelog.append((value, headers))
            partition = partitions[data.draw(st.integers(0, 2))]
            partition.append((key, value if value is not None else dict(headers or ())[STATE_HEADER]))
    replica = ReplicaState(PostStore(), VectorIndex(), WallClock(), ("served",))
    statuses_in_any_order = data.draw(st.permutations(world.accounts))
    replica.apply({"accounts": [(key_of_id(state.user_id), pack(state)) for state in statuses_in_any_order]})
    while any(partitions):
        partition = data.draw(st.sampled_from([each for each in partitions if each]))
        size = data.draw(st.integers(1, len(partition)))
        replica.apply({"thunder-posts": partition[:size]})
        del partition[:size]
    return replica.store


def answered(pipeline: Pipeline, **request: Any) -> set[int]:
    (result,) = pipeline.run([query(size=500, **request)])
    assert result.status in ("ok", "empty"), result.query.degradations
    repeats = result.candidates.repeat.tolist()
    assert repeats == sorted(repeats), "new posts come first"
    return set(result.candidates.posts.post_id.tolist())


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    PostStore().warm_up()


@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(worlds(), st.data())
def test_a_viewer_sees_what_the_model_allows_and_never_more(world: World, data: st.DataObject) -> None:
    store = replicated(world, data)
    allowed = may_see(world)
    pipeline = foryou_pipeline(store, VectorIndex(), FixedModel(), KnownUsers({str(VIEWER): world.state}))
    assert answered(pipeline, check_ids=[*POSTS]) == allowed
    shown = answered(pipeline, parameters=replace(FORYOU, repeat_below=len(POSTS)))
    assert shown <= allowed
    live, _ = live_posts(world.posts)
    alone = {
        post_id
        for post_id in allowed
        if live[post_id].content.kind == "original"
        and not any(post_id in (s.content.source_post_id, s.content.in_reply_to_post_id) for s in live.values())
    }
    assert alone <= shown, "a post that the model allows, and that competes with no other, is not hidden"
