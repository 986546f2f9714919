"""References between posts: visibility of replies and reposts, maintained on write, so that reads only compare.

Each stored reply and repost is in a linked list of the posts that refer to the same post. The list starts at that
post's id in the id table, also if the post is not stored. So a parent that arrives late, changes, is deleted or is
restored finds its replies. A repost of a repost counts as a repost of the original, and finds it in the same way.

glossary of shapes: `rows` of the store, `slots` of authors, `n` given rows or posts, `k` found rows.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt16, UInt32

from thunder_ingest.events import ORIGINAL, QUOTE, REPLY, REPOST
from thunder_ingest.kernels.compiled import inlined, kernel
from thunder_ingest.kernels.hashing import GOLDEN
from thunder_ingest.kernels.id_table import FIRST, SECOND, IdTable, claim, index_of, place_of, release
from thunder_ingest.posts.author_index import AuthorIndex
from thunder_ingest.posts.columns import StoredColumns

HIDDEN: Final[Any] = np.uint32(0)
"""The state of a hidden reply. Other replies have ALWAYS, or the slot of the author to be followed, plus one."""
ALWAYS: Final[Any] = np.uint32(0xFFFFFFFF)
UNKNOWN_AUTHOR: Final[Any] = np.uint32(0)
"""The state of a repost of an unknown author. Other reposts have CHECK, or the `fingerprint` of that author."""
CHECK: Final[Any] = np.uint32(0xFFFFFFFF)
MAX_HOPS: Final = 64
"""The longest chain of reposts of reposts that is followed to its original."""


class References(NamedTuple):
    """For each row its state, True for a video, its neighbours in the linked list, plus one, and its original.

    The original of a repost is the post at the end of its chain of reposts: the first one that is no stored repost.
    """

    state: UInt32[np.ndarray, " rows"]
    is_video: Bool[np.ndarray, " rows"]
    following: Int32[np.ndarray, " rows"]
    preceding: Int32[np.ndarray, " rows"]
    original_id: Int64[np.ndarray, " rows"]  # 0 for other posts, and for reposts in a circle


class Stored(NamedTuple):
    """The arrays that the rules for replies and reposts read, in one argument."""

    ids: IdTable  # post id → row + 1, head of the list + 1
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
    """The references of rows without posts."""
    links = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    return References(np.zeros(rows, np.uint32), np.zeros(rows, np.bool_), *links, np.zeros(rows, np.int64))


def stored(ids: IdTable, authors: AuthorIndex, columns: StoredColumns) -> Stored:
    """The arrays for the rules."""
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
    """The row of a post, -1 for a post that is not stored; in loops `index_of` is faster."""
    return index_of(ids.keys, ids.values, post_id)


@inlined
def fingerprint(author_id: int) -> int:
    """A 32-bit hash of an author (Fibonacci hashing), neither UNKNOWN_AUTHOR nor CHECK."""
    mixed = np.uint32((np.uint64(author_id) * GOLDEN) >> np.uint64(32))
    print_: Any = np.uint32(min(max(mixed, np.uint32(1)), np.uint32(0xFFFFFFFE)))
    return print_


@inlined
def _refers_to(s: Stored, row: int) -> int:
    if s.kind[row] == REPLY:
        return s.parent_id[row]
    return s.source_id[row] if s.kind[row] == REPOST else 0


@inlined
def _begins_a_conversation(kind: int) -> bool:
    return kind in (ORIGINAL, QUOTE)


@kernel
def decide(s: Stored, r: References, rows: Int64[np.ndarray, " n"], min_video_ms: int) -> None:
    """Set state, original and video flag of rows, after a write of the rows or of the posts that they refer to."""
    kind = s.kind
    for row in rows:
        r.original_id[row] = 0
        if kind[row] == REPLY:
            r.state[row] = _reply_state(s, row)
        elif kind[row] == REPOST:
            r.original_id[row] = _original_id(s, row)
            r.state[row] = _repost_state(s, row, r.original_id[row])
    _decide_videos(s, r, rows, min_video_ms)


@kernel
def _original_id(s: Stored, row: int) -> int:
    original = s.source_id[row]
    for _ in range(MAX_HOPS):
        at = row_of(s.ids, original)
        if at < 0 or s.kind[at] != REPOST:
            return original
        original = s.source_id[at]
    return 0


@kernel
def _reply_state(s: Stored, row: int) -> int:
    """A reply shows if its stored parent is an original or a quote, or a followed author's answer to the root.

    Without a conversation id, the root is the post that the parent answers, if that is a stored original or quote. The
    rule is that of the published Thunder.
    """
    parent = row_of(s.ids, s.parent_id[row])
    if parent < 0 or s.kind[parent] == REPOST:
        return HIDDEN
    if _begins_a_conversation(s.kind[parent]):
        return ALWAYS
    root = s.conversation_id[row] if s.conversation_id[row] != 0 else s.conversation_id[parent]
    if root == 0:
        above = row_of(s.ids, s.parent_id[parent])
        if above >= 0 and _begins_a_conversation(s.kind[above]):
            root = s.post_id[above]
    if root == 0 or s.parent_id[parent] != root:
        return HIDDEN
    state: Any = np.uint32(s.author[parent] + 1)
    return state


@kernel
def _repost_state(s: Stored, row: int, original_id: int) -> int:
    source = row_of(s.ids, original_id)
    named = s.source_author_id[row] if original_id == s.source_id[row] else 0
    known = s.author_ids[s.author[source]] if source >= 0 else 0
    if named != 0 and known != 0 and named != known:
        return CHECK
    author = known if named == 0 else named
    return UNKNOWN_AUTHOR if author == 0 else fingerprint(author)


@kernel
def _decide_videos(s: Stored, r: References, rows: Int64[np.ndarray, " n"], min_video_ms: int) -> None:
    """Flag originals and quotes with a long enough video and no photos; a repost has the flag of its original."""
    kind, photos, video_ms, original_id, is_video = s.kind, s.photos, s.video_ms, r.original_id, r.is_video
    keys, values = s.ids.keys, s.ids.values
    for row in rows:
        shown = index_of(keys, values, original_id[row]) if kind[row] == REPOST else row
        is_video[row] = (
            shown >= 0
            and _begins_a_conversation(kind[shown])
            and photos[shown] == 0
            and video_ms[shown] >= min_video_ms
        )


@kernel
def referring(
    ids: IdTable,
    kind: UInt8[np.ndarray, " rows"],
    post_id: Int64[np.ndarray, " rows"],
    following: Int32[np.ndarray, " rows"],
    post_ids: Int64[np.ndarray, " n"],
) -> Int64[np.ndarray, " k"]:
    """The rows that depend on posts: their replies and reposts, the replies to these replies, reposts of reposts."""
    keys, values = ids.keys, ids.values
    rows, hops = np.empty(len(post_ids) + 1, np.int64), np.empty(len(post_ids) + 1, np.int64)
    found = looked = 0
    for changed in post_ids:
        of, hop, is_parent = changed, 0, True
        while True:
            at = place_of(keys, of) if is_parent else -1
            child = values[at, SECOND] - 1 if at >= 0 else -1
            while child >= 0:
                if found == len(rows):
                    rows, hops = np.append(rows, np.empty_like(rows)), np.append(hops, np.empty_like(hops))
                rows[found], hops[found] = child, hop + 1
                found += 1
                child = following[child] - 1
            if looked == found:
                break
            of, hop = post_id[rows[looked]], hops[looked]
            is_parent = (kind[rows[looked]] == REPLY and hop == 1) or (kind[rows[looked]] == REPOST and hop < MAX_HOPS)
            looked += 1
    return rows[:found]


@kernel
def link(s: Stored, r: References, rows: Int64[np.ndarray, " n"]) -> None:
    """Insert rows into the lists of the posts that they refer to; the id table has room."""
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
    """Remove rows from their lists; an id without row and list is deleted from the id table."""
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
