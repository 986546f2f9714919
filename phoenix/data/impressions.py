"""A log as columns: every impression as one row, with what its viewer did about it.

Glossary of shapes:

    e: events about posts shown
    n: rows, a viewer's together and oldest first
    p: posts
    A: the 19 actions

What counts is a function of the set of events, whatever their order and duplicates:
- An engagement belongs to its viewer's newest impression of that post, where it comes within JOIN_MS of it or of the
  engagement before it; else it opens a row of its own, for what was acted on was seen.
- Impressions of one viewer, post and time are one.
- An undo takes back that action on that post wherever it is older; at the same time the action stands.
- Of a post, the newest content counts, and the earliest time.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8, UInt32

from thunder_ingest.events import ACTION_INDEX, ACTIONS, IMPRESSION, Engagement, Impression, PostCreated, surface_code
from thunder_ingest.events.ids import id64
from thunder_ingest.events.text import MAX_TOKENS, packed_tokens, padded_tokens

JOIN_MS: Final = 30 * 60_000
"""How long after the event before it an engagement still belongs to an impression: longer than most videos."""

_EVENT: Final = np.dtype(
    [
        ("viewer_id", "i8"),
        ("post_id", "i8"),
        ("author_id", "i8"),
        ("at", "i8"),
        ("dwell_ms", "i4"),
        ("action", "u1"),  # ACTION_INDEX, or IMPRESSION
        ("undo", "?"),
        ("surface", "u1"),
    ]
)
_ROW: Final = np.dtype(
    [
        ("viewer_id", "i8"),
        ("post_id", "i8"),
        ("author_id", "i8"),
        ("at", "i8"),
        ("known_at", "i8"),
        ("dwell_ms", "i4"),
        ("actions", "u4"),  # a bit for each of ACTIONS
        ("surface", "u1"),
    ]
)
Events = np.ndarray[Any, np.dtype[Any]]  # [e] of dtype _EVENT, or [n] of dtype _ROW


class Posts(NamedTuple):
    """The posts of a log, by ascending id; of one that was never published only id and author are known."""

    post_id: Int64[np.ndarray, " p"]
    author_id: Int64[np.ndarray, " p"]
    tokens: UInt32[np.ndarray, "p 64"]
    created_at: Int64[np.ndarray, " p"]  # 0 where it was never published
    video_ms: Int32[np.ndarray, " p"]
    photos: Int32[np.ndarray, " p"]


class Log(NamedTuple):
    """Rows sorted by viewer, then time."""

    posts: Posts
    viewer_id: Int64[np.ndarray, " n"]
    post: Int64[np.ndarray, " n"]  # index into posts
    at: Int64[np.ndarray, " n"]  # of the impression
    known_at: Int64[np.ndarray, " n"]  # when the last of its engagements came: nothing of the row may be used before
    surface: UInt8[np.ndarray, " n"]
    actions: Bool[np.ndarray, "n A"]
    dwell_ms: Float32[np.ndarray, " n"]


def log_of(events: Iterable[Any]) -> Log:
    """Fold decoded events of `posts` and `engagements`; others are passed over.

    Args:
        events: of `thunder_ingest.events`, in any order.

    """
    published: dict[int, _Published] = {}
    rows = _folded(_standing(np.fromiter(_about_posts_shown(events, published), _EVENT)))
    posts = _posts(published, rows)
    return Log(
        posts=posts,
        viewer_id=rows["viewer_id"],
        post=np.searchsorted(posts.post_id, rows["post_id"]),
        at=rows["at"],
        known_at=rows["known_at"],
        surface=rows["surface"],
        actions=(rows["actions"][:, np.newaxis] >> np.arange(len(ACTIONS), dtype=np.uint32) & 1).astype(bool),
        dwell_ms=rows["dwell_ms"].astype(np.float32),
    )


def _about_posts_shown(events: Iterable[Any], published: dict[int, "_Published"]) -> Iterator[tuple[Any, ...]]:
    """Impressions and engagements as records of _EVENT; `published` gets the posts."""
    for event in events:
        kind = type(event)
        if kind is Engagement or kind is Impression:
            action, dwell_ms, undo = IMPRESSION, 0, False
            if kind is Engagement:
                action, dwell_ms, undo = ACTION_INDEX[event.action], event.dwell_ms or 0, event.undo is True
            ids = id64(event.user_id), id64(event.post_id), id64(event.author_id)
            yield *ids, event.at, dwell_ms, action, undo, surface_code(event.surface)
        elif kind is PostCreated:
            post_id = id64(event.post_id)
            earlier = published.get(post_id)
            published[post_id] = _Published(event, event.at) if earlier is None else earlier.joined(event)


class _Published(NamedTuple):
    content: PostCreated
    created_at: int

    def joined(self, event: PostCreated) -> "_Published":
        """The newest content; where times are equal the greater text, so that order does not matter."""
        newest = max(self.content, event, key=lambda each: (each.at, each.text or ""))
        return _Published(newest, min(self.created_at, event.at))


def _standing(events: Events) -> Events:
    """The events that no undo takes back, without the undos."""
    if not events["undo"].any():
        return events
    events = events[np.lexsort((events["at"], events["action"], events["post_id"], events["viewer_id"]))]
    starts = np.flatnonzero(_changes(events, "viewer_id", "post_id", "action"))
    undone_at = np.maximum.reduceat(np.where(events["undo"], events["at"], -1), starts)
    undone_at = np.repeat(undone_at, np.diff(starts, append=len(events)))
    return events[~events["undo"] & (events["at"] >= undone_at)]


def _folded(events: Events) -> Events:
    """Events as rows [n] of dtype _ROW, by viewer and time."""
    is_engagement = events["action"] != IMPRESSION
    events = events[np.lexsort((is_engagement, events["at"], events["post_id"], events["viewer_id"]))]
    again = ~_changes(events, "viewer_id", "post_id", "at")
    late = np.diff(events["at"], prepend=0) > JOIN_MS
    opens = _changes(events, "viewer_id", "post_id") | late | ((events["action"] == IMPRESSION) & ~again)
    starts = np.flatnonzero(opens)
    bits = np.where(events["action"] == IMPRESSION, 0, np.uint32(1) << events["action"].astype(np.uint32))
    rows = np.zeros(len(starts), _ROW)
    for name in ("viewer_id", "post_id", "at"):
        rows[name] = events[name][starts]
    for name in ("author_id", "dwell_ms", "surface"):
        rows[name] = np.maximum.reduceat(events[name], starts)
    rows["known_at"] = np.maximum.reduceat(events["at"], starts)
    rows["actions"] = np.bitwise_or.reduceat(bits, starts)
    return rows[np.lexsort((rows["post_id"], rows["at"], rows["viewer_id"]))]


def _changes(events: Events, *names: str) -> Bool[np.ndarray, " e"]:
    """Where, in sorted events, one of these columns is another than in the event before; true for the first."""
    changes = np.ones(len(events), bool)
    changes[1:] = np.any([events[name][1:] != events[name][:-1] for name in names], axis=0)
    return changes


def _posts(published: Mapping[int, _Published], rows: Events) -> Posts:
    """The posts that were published, and those that were only seen."""
    post_id = np.union1d(np.array([*published], np.int64), rows["post_id"])
    author_id = np.zeros(len(post_id), np.int64)
    author_id[np.searchsorted(post_id, rows["post_id"])] = rows["author_id"]
    posts = Posts(
        post_id=post_id,
        author_id=author_id,
        tokens=np.zeros((len(post_id), MAX_TOKENS), np.uint32),
        created_at=np.zeros(len(post_id), np.int64),
        video_ms=np.zeros(len(post_id), np.int32),
        photos=np.zeros(len(post_id), np.int32),
    )
    at = np.searchsorted(post_id, np.array([*published], np.int64))
    contents = [each.content for each in published.values()]
    posts.author_id[at] = [id64(content.author_id) for content in contents]
    posts.tokens[at] = padded_tokens([packed_tokens(content.text or "") for content in contents])
    posts.created_at[at] = [each.created_at for each in published.values()]
    posts.video_ms[at] = [content.video_ms or 0 for content in contents]
    posts.photos[at] = [content.photos or 0 for content in contents]
    return posts
