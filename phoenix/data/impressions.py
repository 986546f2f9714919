"""The log of impressions as columns: one row for each impression, with the actions of its viewer.

The rows are the examples and their labels. Histories and counts come from `Log.events`, by the rules of the service.

Glossary of shapes:

    e: impression and engagement events
    r: rows, sorted by viewer, then time
    s: surfaces
    A: the 19 actions

The result is a function of the set of events; order and duplicates of events do not matter:
- An engagement joins its viewer's newest impression of the post if it comes within JOIN_MS of that impression or of the
  row's last engagement. Otherwise it opens a row, because an action implies an impression.
- Impressions of one viewer, post and time are one row.
- A row has the surface of its first event: an engagement that named another one would betray the outcome.
- An undo removes older actions of its kind on the post; DONE_WINS decides at equal times.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from phoenix.data.groups import group_starts
from phoenix.data.posts import NEVER, Posts, Published, add, posts_of
from thunder_ingest.events import (
    ACTION_INDEX,
    ACTIONS,
    IMPRESSION,
    Engagement,
    Impression,
    PostCreated,
    PostDeleted,
    surface_code,
)
from thunder_ingest.events.actions import DONE_WINS
from thunder_ingest.events.ids import id64
from thunder_ingest.users.entries import HISTORY

JOIN_MS: Final = 30 * 60_000
"""Longest gap between an engagement and the row's event before it: longer than most videos."""

EVENT: Final = np.dtype(
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
Events = np.ndarray[Any, np.dtype[Any]]  # [e] of dtype EVENT, or [r] of dtype _ROW
NO_EVENTS: Final = np.zeros(0, EVENT)
_ORDER: Final = ("surface", "dwell_ms", "author_id", "undo", "action", "post_id", "at", "viewer_id")
"""The fields by which events are sorted, the last one first."""


class Log(NamedTuple):
    """Rows sorted by viewer, then time. Times are epoch milliseconds."""

    posts: Posts
    viewer_id: Int64[np.ndarray, " r"]
    post: Int64[np.ndarray, " r"]  # index into posts
    at: Int64[np.ndarray, " r"]  # of the impression
    complete_at: Int64[np.ndarray, " r"]  # of the row's last engagement
    surface: Int32[np.ndarray, " r"]  # index into surfaces
    actions: Bool[np.ndarray, "r A"]
    dwell_ms: Float32[np.ndarray, " r"]
    surfaces: tuple[str, ...] = ("",)  # "" for no surface, then the published names in alphabetical order
    events: Events = NO_EVENTS  # the impressions and engagements, each once, sorted by viewer, then time

    @property
    def surface_codes(self) -> UInt8[np.ndarray, " s"]:
        """The code of each of `surfaces`, the models' input."""
        return np.array([0, *map(surface_code, self.surfaces[1:])], np.uint8)

    def entries(self, index: Int64[np.ndarray, " n"]) -> np.ndarray[Any, np.dtype[Any]]:
        """Return some events as entries of users' histories, of dtype HISTORY."""
        events, entries = self.events[index], np.empty(len(index), HISTORY)
        for name in HISTORY.names or ():
            entries[name] = events[name]
        entries["surface"] = self.surface_codes[events["surface"]]
        return entries

    def before(self, until_ms: int) -> "Log":
        """Return the log that ends at `until_ms`: events from then on, undos and edits too, change nothing.

        Posts keep their indices.
        """
        events = self.events[self.events["at"] < until_ms]
        posts = self.posts.before(until_ms, events["post_id"], events["author_id"])
        used = np.union1d(events["surface"], 0)
        events["surface"] = np.searchsorted(used, events["surface"])
        return _log(posts, events, tuple(self.surfaces[index] for index in used))


def log_of(events: Iterable[Any], max_post_age_ms: int = NEVER) -> Log:
    """Fold decoded events of the topics `posts` and `engagements` into columns; other events are ignored.

    Args:
        events: events of `thunder_ingest.events`, in any order.
        max_post_age_ms: age above which the service does not have a post any more, nor its words.

    """
    published: Published = {}
    names: dict[str, int] = {"": 0}
    read = np.fromiter(_about_posts_shown(events, published, names), EVENT)
    surfaces = tuple(sorted(names))
    read["surface"] = np.argsort(np.argsort([*names]))[read["surface"]]
    read = read[np.lexsort([read[name] for name in _ORDER])]
    read = read[group_starts(*(read[name] for name in _ORDER))]
    return _log(posts_of(published, read["post_id"], read["author_id"], max_post_age_ms), read, surfaces)


def _log(posts: Posts, events: Events, surfaces: tuple[str, ...]) -> Log:
    rows = _folded(_standing(events))
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
        events=events,
    )


def _about_posts_shown(events: Iterable[Any], published: Published, names: dict[str, int]) -> Iterator[tuple[Any, ...]]:
    """Yield impressions and engagements as records of EVENT; add posts to `published`, new surfaces to `names`."""
    for event in events:
        kind = type(event)
        if kind is Engagement or kind is Impression:
            action, dwell_ms, undo = IMPRESSION, 0, False
            if kind is Engagement:
                action, dwell_ms, undo = ACTION_INDEX[event.action], event.dwell_ms or 0, event.undo is True
            ids = id64(event.user_id), id64(event.post_id), id64(event.author_id)
            surface = names.setdefault(event.surface or "", len(names))
            yield *ids, event.at, dwell_ms, action, undo, surface
        elif kind is PostCreated or kind is PostDeleted:
            add(published, event)


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
    order = np.lexsort((-events["surface"], is_engagement, events["at"], events["post_id"], events["viewer_id"]))
    events = events[order]
    pair = events["viewer_id"], events["post_id"]
    duplicate = ~group_starts(*pair, events["at"])
    late = np.diff(events["at"], prepend=0) > JOIN_MS
    opens = group_starts(*pair) | late | ((events["action"] == IMPRESSION) & ~duplicate)
    starts = np.flatnonzero(opens)
    bits = np.where(events["action"] == IMPRESSION, 0, np.uint32(1) << events["action"].astype(np.uint32))
    rows = np.zeros(len(starts), _ROW)
    for name in ("viewer_id", "post_id", "at", "surface"):
        rows[name] = events[name][starts]
    for name in ("author_id", "dwell_ms"):
        rows[name] = np.maximum.reduceat(events[name], starts)
    rows["complete_at"] = np.maximum.reduceat(events["at"], starts)
    rows["actions"] = np.bitwise_or.reduceat(bits, starts)
    return rows[np.lexsort((rows["post_id"], rows["at"], rows["viewer_id"]))]
