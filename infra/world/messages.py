"""Conversion of the generated world's columns into the events that an app publishes."""

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from infra.world.activity import Acts
from infra.world.exposure import Impressions
from infra.world.posts import LABELS, NEVER, Posts
from infra.world.social import Edges, MutedKeyword
from infra.world.topics import LANGUAGES
from thunder_ingest.events import (
    ACTION_INDEX,
    ACTIONS,
    KINDS,
    QUOTE,
    REPLY,
    REPOST,
    Block,
    Engagement,
    EngagementEvent,
    Follow,
    GraphEvent,
    Impression,
    Mute,
    MuteKeyword,
    PostCreated,
    PostDeleted,
    PostEvent,
    PostLabeled,
    Subscribe,
    Unblock,
    Unfollow,
    Unmute,
    UnmuteKeyword,
    Unsubscribe,
)

E = TypeVar("E", PostEvent, EngagementEvent, GraphEvent)

FIRST_USER_ID: Final = 1
FIRST_POST_ID: Final = 1_000_001
FEED_SURFACE: Final = "home"
OTHER_SURFACE: Final = "profile"

_DOING: Final = (Follow, Block, Mute, Subscribe)
_UNDOING: Final = (Unfollow, Unblock, Unmute, Unsubscribe)


class Messages:
    """Creates events; adds `start_ms` to the offsets of the columns."""

    def __init__(self, start_ms: int) -> None:
        self._start_ms = start_ms

    def of_posts(self, posts: Posts, texts: list[str]) -> list[PostEvent]:
        """Return created posts, deletions and labels, sorted by time."""
        events: list[PostEvent] = [self._created(posts, row, text) for row, text in enumerate(texts)]
        for row in (posts.labeled < NEVER).nonzero()[0].tolist():
            events.append(self._labeled(posts, row, int(posts.labeled[row]), None))
            if posts.unlabeled[row] < NEVER:
                events.append(self._labeled(posts, row, int(posts.unlabeled[row]), True))
        for row in (posts.deleted < NEVER).nonzero()[0].tolist():
            at = self._start_ms + int(posts.deleted[row])
            events.append(PostDeleted(at=at, post_id=_post_id(row), author_id=_user_id(posts.author[row])))
        return _in_order(events)

    def _created(self, posts: Posts, row: int, text: str) -> PostCreated:
        kind, parent = int(posts.kind[row]), int(posts.parent[row])
        replies, shares = kind == REPLY, kind in (REPOST, QUOTE)
        return PostCreated(
            at=self._start_ms + int(posts.created[row]),
            post_id=_post_id(row),
            author_id=_user_id(posts.author[row]),
            kind=KINDS[kind],
            text=None if kind == REPOST else text,
            lang=LANGUAGES[int(posts.language[row])],
            conversation_id=_post_id(posts.root[row]) if replies else None,
            in_reply_to_post_id=_post_id(parent) if replies else None,
            in_reply_to_author_id=_user_id(posts.author[parent]) if replies else None,
            source_post_id=_post_id(parent) if shares else None,
            source_author_id=_user_id(posts.author[parent]) if shares else None,
            photos=int(posts.photos[row]) or None,
            video_ms=int(posts.video_ms[row]) or None,
            subscriber_only=bool(posts.subscriber_only[row]) or None,
        )

    def _labeled(self, posts: Posts, row: int, at: int, removed: bool | None) -> PostLabeled:
        return PostLabeled(
            at=self._start_ms + at,
            post_id=_post_id(row),
            author_id=_user_id(posts.author[row]),
            label=LABELS[int(posts.label[row])],
            removed=removed,
        )

    def of_engagements(self, shown: Impressions, acts: Acts, posts: Posts) -> list[EngagementEvent]:
        """Return impressions, engagements and their undos, sorted by time."""
        where = self._places(shown, posts)
        times = (self._start_ms + shown.at).tolist()
        events: list[EngagementEvent] = [
            Impression(at=at, position=position if position >= 0 else None, **place)
            for at, position, place in zip(times, shown.position.tolist(), where, strict=True)
        ]
        dwell_time = ACTION_INDEX["dwell_time"]
        columns = (acts.impression, acts.action, self._start_ms + acts.at, self._start_ms + acts.undone)
        rows = zip(*(column.tolist() for column in columns), (acts.undone < NEVER).tolist(), strict=True)
        dwell_ms = shown.dwell_ms.tolist()
        for row, action, at, undone, is_undone in rows:
            place = where[row]
            dwelled = dwell_ms[row] if action == dwell_time else None
            events.append(Engagement(at=at, action=ACTIONS[action], dwell_ms=dwelled, **place))
            if is_undone:
                events.append(Engagement(at=undone, action=ACTIONS[action], undo=True, **place))
        return _in_order(events)

    def _places(self, shown: Impressions, posts: Posts) -> list[dict[str, Any]]:
        """Return the fields that all events of an impression share."""
        columns = (shown.viewer, shown.post, posts.author[shown.post], shown.session)
        return [
            {
                "user_id": _user_id(viewer),
                "post_id": _post_id(post),
                "author_id": _user_id(author),
                "request_id": f"world-{session}" if session >= 0 else None,
                "surface": FEED_SURFACE if session >= 0 else OTHER_SURFACE,
            }
            for viewer, post, author, session in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def of_graph(self, edges: Edges, keywords: Iterable[MutedKeyword]) -> list[GraphEvent]:
        """Return follows, blocks, mutes, subscriptions, muted keywords and their undos, sorted by time."""
        events: list[GraphEvent] = []
        columns = (edges.kind, edges.user, edges.target, edges.at, edges.undone)
        for kind, user, target, at, undone in zip(*(column.tolist() for column in columns), strict=True):
            pair = {"user_id": _user_id(user), "target_id": _user_id(target)}
            events.append(_DOING[kind](at=self._start_ms + at, **pair))
            if undone < NEVER:
                events.append(_UNDOING[kind](at=self._start_ms + undone, **pair))
        for user, keyword, at, undone in keywords:
            events.append(MuteKeyword(at=self._start_ms + at, user_id=_user_id(user), keyword=keyword))
            if undone < NEVER:
                events.append(UnmuteKeyword(at=self._start_ms + undone, user_id=_user_id(user), keyword=keyword))
        return _in_order(events)


def _in_order(events: list[E]) -> list[E]:
    events.sort(key=lambda event: event.at)
    return events


def _user_id(account: int) -> int:
    return FIRST_USER_ID + int(account)


def _post_id(row: int) -> int:
    return FIRST_POST_ID + int(row)
