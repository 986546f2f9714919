"""The log of impressions as columns: one row for each impression, with the actions of its viewer.

Glossary of shapes:

    e: impression and engagement events
    r: rows, sorted by viewer, then time
    p: posts
    T: text tokens of a post, padded with 0
    A: the 19 actions

The result is a function of the set of events; order and duplicates of events do not matter:
- An engagement joins its viewer's newest impression of the post if it comes within JOIN_MS of that impression or of the
  row's last engagement. Otherwise it opens a row, because an action implies an impression.
- Impressions of one viewer, post and time are one row.
- An undo removes older actions of its kind on the post; DONE_WINS decides at equal times.
- A post has its newest content and its earliest time.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8, UInt32

from phoenix.data.groups import group_starts
from thunder_ingest.events import ACTION_INDEX, ACTIONS, IMPRESSION, Engagement, Impression, PostCreated, surface_code
from thunder_ingest.events.actions import DONE_WINS
from thunder_ingest.events.ids import id64
from thunder_ingest.events.text import MAX_TOKENS, packed_tokens, padded_tokens

JOIN_MS: Final = 30 * 60_000
"""Longest gap between an engagement and the row's event before it: longer than most videos."""

_EVENT: Final = np.dtype(
    [
        ("viewer_id", "i8"),
        ("post_id", "i8"),
        ("author_id", "i8"),
        ("at", "i8"),
        ("dwell_ms", "i4"),
        ("action", "u1"),  # ACTION_INDEX, or IMPRESSION
        ("undo", "?"),
        ("surface", "i4"),  # index into the names
    ]
)
_ROW: Final = np.dtype(
    [
        ("viewer_id", "i8"),
        ("post_id", "i8"),
        ("author_id", "i8"),
        ("at", "i8"),
        ("complete_at", "i8"),
        ("dwell_ms", "i4"),
        ("actions", "u4"),  # a bit for each of ACTIONS
        ("surface", "i4"),
    ]
)
Events = np.ndarray[Any, np.dtype[Any]]  # [e] of dtype _EVENT, or [r] of dtype _ROW


class Posts(NamedTuple):
    """The posts of a log, by ascending id. A post without a `post_created` event has only its id and author."""

    post_id: Int64[np.ndarray, " p"]
    author_id: Int64[np.ndarray, " p"]
    tokens: UInt32[np.ndarray, "p T"]
    created_at: Int64[np.ndarray, " p"]  # epoch ms; 0 without a `post_created` event
    video_ms: Int32[np.ndarray, " p"]
    photos: Int32[np.ndarray, " p"]


class Log(NamedTuple):
    """Rows sorted by viewer, then time. Times are epoch milliseconds."""

    posts: Posts
    viewer_id: Int64[np.ndarray, " n"]
    post: Int64[np.ndarray, " n"]  # index into posts
    at: Int64[np.ndarray, " n"]  # of the impression
    complete_at: Int64[np.ndarray, " n"]  # time of the row's last engagement; no prediction before it may use the row
    surface: Int32[np.ndarray, " n"]  # index into surfaces
    actions: Bool[np.ndarray, "n A"]
    dwell_ms: Float32[np.ndarray, " n"]
    surfaces: tuple[str, ...] = ("",)  # "" for no surface, then the published names in alphabetical order

    @property
    def surface_codes(self) -> UInt8[np.ndarray, " s"]:
        """The code of each of `surfaces`, the models' input."""
        return np.array([0, *map(surface_code, self.surfaces[1:])], np.uint8)


def log_of(events: Iterable[Any]) -> Log:
    """Fold decoded events of the topics `posts` and `engagements` into columns; other events are ignored.

    Args:
        events: events of `thunder_ingest.events`, in any order.

    """
    published: dict[int, _Published] = {}
    names: dict[str, int] = {"": 0}
    read = np.fromiter(_about_posts_shown(events, published, names), _EVENT)
    surfaces = tuple(sorted(names))
    read["surface"] = np.argsort(np.argsort([*names]))[read["surface"]]
    rows = _folded(_standing(read))
    posts = _posts(published, rows)
    return Log(
        posts=posts,
        viewer_id=rows["viewer_id"],
        post=np.searchsorted(posts.post_id, rows["post_id"]),
        at=rows["at"],
        complete_at=rows["complete_at"],
        surface=rows["surface"],
        actions=(rows["actions"][:, np.newaxis] >> np.arange(len(ACTIONS), dtype=np.uint32) & 1).astype(bool),
        dwell_ms=rows["dwell_ms"].astype(np.float32),
        surfaces=surfaces,
    )


def _about_posts_shown(
    events: Iterable[Any], published: dict[int, "_Published"], names: dict[str, int]
) -> Iterator[tuple[Any, ...]]:
    """Yield impressions and engagements as records of _EVENT; add posts to `published`, new surfaces to `names`."""
    for event in events:
        kind = type(event)
        if kind is Engagement or kind is Impression:
            action, dwell_ms, undo = IMPRESSION, 0, False
            if kind is Engagement:
                action, dwell_ms, undo = ACTION_INDEX[event.action], event.dwell_ms or 0, event.undo is True
            ids = id64(event.user_id), id64(event.post_id), id64(event.author_id)
            surface = names.setdefault(event.surface or "", len(names))
            yield *ids, event.at, dwell_ms, action, undo, surface
        elif kind is PostCreated:
            post_id = id64(event.post_id)
            earlier = published.get(post_id)
            published[post_id] = _Published(event, event.at) if earlier is None else earlier.joined(event)


class _Published(NamedTuple):
    content: PostCreated
    created_at: int

    def joined(self, event: PostCreated) -> "_Published":
        """Keep the newest content, at equal times the greater text, so that order does not matter."""
        newest = max(self.content, event, key=lambda each: (each.at, each.text or ""))
        return _Published(newest, min(self.created_at, event.at))


def _standing(events: Events) -> Events:
    """Return the engagements and impressions without undone actions and without the undos."""
    if not events["undo"].any():
        return events
    events = events[np.lexsort((events["at"], events["action"], events["post_id"], events["viewer_id"]))]
    starts = np.flatnonzero(group_starts(events["viewer_id"], events["post_id"], events["action"]))
    undone_at = np.maximum.reduceat(np.where(events["undo"], events["at"], -1), starts)
    undone_at = np.repeat(undone_at, np.diff(starts, append=len(events)))
    undone_at -= DONE_WINS >> events["action"].astype(np.int64) & 1
    return events[~events["undo"] & (events["at"] > undone_at)]


def _folded(events: Events) -> Events:
    """Fold events into rows [r] of dtype _ROW, sorted by viewer and time."""
    is_engagement = events["action"] != IMPRESSION
    events = events[np.lexsort((is_engagement, events["at"], events["post_id"], events["viewer_id"]))]
    pair = events["viewer_id"], events["post_id"]
    duplicate = ~group_starts(*pair, events["at"])
    late = np.diff(events["at"], prepend=0) > JOIN_MS
    opens = group_starts(*pair) | late | ((events["action"] == IMPRESSION) & ~duplicate)
    starts = np.flatnonzero(opens)
    bits = np.where(events["action"] == IMPRESSION, 0, np.uint32(1) << events["action"].astype(np.uint32))
    rows = np.zeros(len(starts), _ROW)
    for name in ("viewer_id", "post_id", "at"):
        rows[name] = events[name][starts]
    for name in ("author_id", "dwell_ms", "surface"):
        rows[name] = np.maximum.reduceat(events[name], starts)
    rows["complete_at"] = np.maximum.reduceat(events["at"], starts)
    rows["actions"] = np.bitwise_or.reduceat(bits, starts)
    return rows[np.lexsort((rows["post_id"], rows["at"], rows["viewer_id"]))]


def _posts(published: Mapping[int, _Published], rows: Events) -> Posts:
    """Return the published posts and those that occur only in impressions."""
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
