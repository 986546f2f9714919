"""What a reply or a repost is depends on the post that it refers to: decided when posts come and go, not when read.

Each stored reply and repost stands in a chain of those that refer to the same post, which hangs at that post's id
whether it is stored or not: a parent that comes late, changes, is deleted or restored finds its replies there.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt16, UInt32

from thunder_ingest.author_index import AuthorIndex
from thunder_ingest.compiled import inlined, kernel
from thunder_ingest.events import ORIGINAL, QUOTE, REPLY, REPOST
from thunder_ingest.id_table import FIRST, SECOND, IdTable, claim, place_of, release
from thunder_ingest.post_columns import StoredColumns

HIDDEN: Final[Any] = np.uint32(0)
"""The state of a reply that nobody is shown; else it is ALWAYS, or the slot of an author to be followed, plus one."""
ALWAYS: Final[Any] = np.uint32(0xFFFFFFFF)
NOBODY: Final[Any] = np.uint32(0)
"""The state of a repost whose source's author is not known; else it is CHECK, or `fingerprint` of that author."""
CHECK: Final[Any] = np.uint32(0xFFFFFFFF)

_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_HALF: Final = np.uint64(32)


class References(NamedTuple):
    """Of each row: its state, whether it is a video, and its neighbours in the chain, plus one."""

    state: UInt32[np.ndarray, " rows"]
    is_video: Bool[np.ndarray, " rows"]
    following: Int32[np.ndarray, " rows"]
    preceding: Int32[np.ndarray, " rows"]


class Stored(NamedTuple):
    """What decides about replies and reposts, in one argument."""

    ids: IdTable  # post id → row + 1, first of the chain + 1
    author_ids: Int64[np.ndarray, " slots"]
    post_id: Int64[np.ndarray, " rows"]
    author: Int32[np.ndarray, " rows"]
    kind: UInt8[np.ndarray, " rows"]
    conversation_id: Int64[np.ndarray, " rows"]
    parent_id: Int64[np.ndarray, " rows"]
    source_id: Int64[np.ndarray, " rows"]
    source_author_id: Int64[np.ndarray, " rows"]
    photos: UInt16[np.ndarray, " rows"]
    video_ms: Int32[np.ndarray, " rows"]


def references(rows: int) -> References:
    """Of rows that are no posts."""
    links = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    return References(np.zeros(rows, np.uint32), np.zeros(rows, np.bool_), *links)


def stored(ids: IdTable, authors: AuthorIndex, columns: StoredColumns) -> Stored:
    """The arrays that decide."""
    return Stored(
        ids,
        authors.ids,
        columns.post_id,
        columns.author,
        columns.kind,
        columns.conversation_id,
        columns.in_reply_to_post_id,
        columns.source_post_id,
        columns.source_author_id,
        columns.photos,
        columns.video_ms,
    )


@inlined
def row_of(ids: IdTable, post_id: int) -> int:
    """The row of a post, -1 where it is not stored."""
    at = place_of(ids.keys, post_id)
    return ids.values[at, FIRST] - 1 if at >= 0 else -1


@inlined
def fingerprint(author_id: int) -> int:
    """A number of 32 bits, neither NOBODY nor CHECK, that is the same for the same author."""
    mixed = np.uint32((np.uint64(author_id) * _MIX) >> _HALF)
    print_: Any = np.uint32(min(max(mixed, np.uint32(1)), np.uint32(0xFFFFFFFE)))
    return print_


@inlined
def _refers_to(s: Stored, row: int) -> int:
    if s.kind[row] == REPLY:
        return s.parent_id[row]
    return s.source_id[row] if s.kind[row] == REPOST else 0


@inlined
def _begins_a_conversation(s: Stored, row: int) -> bool:
    return s.kind[row] == ORIGINAL or s.kind[row] == QUOTE


@inlined
def _reply_state(s: Stored, row: int) -> int:
    """A reply shows if its parent is stored and is no reply or repost, or answers the root and is by someone followed.

    Where an app names no conversation, a parent that answers a stored post that is no reply answers the root.
    """
    parent = row_of(s.ids, s.parent_id[row])
    if parent < 0 or s.kind[parent] == REPOST:
        return HIDDEN
    if _begins_a_conversation(s, parent):
        return ALWAYS
    root = s.conversation_id[row] if s.conversation_id[row] != 0 else s.conversation_id[parent]
    if root == 0:
        above = row_of(s.ids, s.parent_id[parent])
        if above >= 0 and _begins_a_conversation(s, above):
            root = s.post_id[above]
    if root == 0 or s.parent_id[parent] != root:
        return HIDDEN
    state: Any = np.uint32(s.author[parent] + 1)
    return state


@inlined
def _repost_state(s: Stored, row: int) -> int:
    source = row_of(s.ids, s.source_id[row])
    named = s.source_author_id[row]
    known = s.author_ids[s.author[source]] if source >= 0 else 0
    if named != 0 and known != 0 and named != known:
        return CHECK
    author = known if named == 0 else named
    return NOBODY if author == 0 else fingerprint(author)


@inlined
def _shows_video(s: Stored, row: int, min_video_ms: int) -> bool:
    """A single video, long enough, that is no reply, or a repost of a stored one."""
    if s.kind[row] == REPOST:
        row = row_of(s.ids, s.source_id[row])
        if row < 0:
            return False
    return _begins_a_conversation(s, row) and s.photos[row] == 0 and s.video_ms[row] >= min_video_ms


@inlined
def _decide(s: Stored, r: References, row: int, min_video_ms: int) -> None:
    if s.kind[row] == REPLY:
        r.state[row] = _reply_state(s, row)
    elif s.kind[row] == REPOST:
        r.state[row] = _repost_state(s, row)
    r.is_video[row] = _shows_video(s, row, min_video_ms)


@kernel
def decide(s: Stored, r: References, rows: Int64[np.ndarray, " n"], min_video_ms: int) -> None:
    """What rows are, after they have been written."""
    for row in rows:
        _decide(s, r, row, min_video_ms)


@kernel
def decide_about(s: Stored, r: References, post_ids: Int64[np.ndarray, " n"], min_video_ms: int) -> None:
    """What the posts that refer to some posts are, and the replies to those, after a change of the posts."""
    for post_id in post_ids:
        at = place_of(s.ids.keys, post_id)
        child = s.ids.values[at, SECOND] - 1 if at >= 0 else -1
        while child >= 0:
            _decide(s, r, child, min_video_ms)
            if s.kind[child] == REPLY:
                below = place_of(s.ids.keys, s.post_id[child])
                grandchild = s.ids.values[below, SECOND] - 1
                while grandchild >= 0:
                    _decide(s, r, grandchild, min_video_ms)
                    grandchild = r.following[grandchild] - 1
            child = r.following[child] - 1


@kernel
def link(s: Stored, r: References, rows: Int64[np.ndarray, " n"]) -> None:
    """Enter rows into the chains of what they refer to; there is room for their ids."""
    for row in rows:
        referred = _refers_to(s, row)
        if referred == 0:
            continue
        at = claim(s.ids, referred)
        first = s.ids.values[at, SECOND]
        r.following[row] = first
        r.preceding[row] = 0
        if first:
            r.preceding[first - 1] = row + 1
        s.ids.values[at, SECOND] = row + 1


@kernel
def unlink(s: Stored, r: References, rows: Int64[np.ndarray, " n"]) -> None:
    """Take rows out of their chains; an id that is neither stored nor referred to any more is forgotten."""
    for row in rows:
        referred = _refers_to(s, row)
        if referred == 0:
            continue
        before, after = r.preceding[row], r.following[row]
        if after:
            r.preceding[after - 1] = before
        if before:
            r.following[before - 1] = after
        else:
            at = place_of(s.ids.keys, referred)
            s.ids.values[at, SECOND] = after
            if after == 0 and s.ids.values[at, FIRST] == 0:
                release(s.ids, at)
