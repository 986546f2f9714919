"""The in-network read with the published rules of Thunder: candidates by followed authors, newest first.

Two plans give the same posts. The walk scans the timeline of all posts from the newest back until it has enough; it is
better for busy authors. Gathering sorts each author's own posts; it is better for quiet authors. The estimated length
of the walk selects the plan. A walk that becomes far longer than its estimate is abandoned for gathering.

glossary of shapes: `rows` of the store, `slots` of authors, `m` followed authors, `k` ids or marks, `n` gathered posts,
`room` for them, `limit` results, `r` results found.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt32

from infra.ports.clock import DAY_MS
from thunder_ingest.events import REPLY, REPOST
from thunder_ingest.kernels.compiled import inlined, kernel
from thunder_ingest.kernels.id_table import FIRST, IdTable, place_of, touch
from thunder_ingest.posts.author_index import COUNT, START, AuthorIndex
from thunder_ingest.posts.newest_first import newest_first, sort
from thunder_ingest.posts.references import ALWAYS, CHECK, HIDDEN, UNKNOWN_AUTHOR, fingerprint, row_of
from thunder_ingest.posts.timeline import END, Timeline, position

_WALKED_AT_ONCE: Final = 20_000
GATHERED_COST = 25
"""The cost of gathering one author or one post, in walked entries of the timeline."""
_PATIENCE: Final = 4
"""A walk is abandoned at this multiple of its estimate."""
NO, YES, PERHAPS = 0, 1, 2


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Limits of a read: the published numbers of Thunder.

    `originals` (with quotes), `replies` (with reposts) and `videos` are lists per author; `scan` limits the newest
    posts of a list that are examined.
    """

    originals: int = 50
    replies: int = 30
    videos: int = 100
    scan: int = 500
    max_age_ms: int = 2 * DAY_MS
    max_results: int = 1200
    min_video_ms: int = 5_000


class Posts(NamedTuple):
    """The arrays of the store that a read uses."""

    ids: IdTable
    authors: AuthorIndex
    timeline: Timeline
    post_id: Int64[np.ndarray, " rows"]
    created_at: Int64[np.ndarray, " rows"]
    author: Int32[np.ndarray, " rows"]
    source_post_id: Int64[np.ndarray, " rows"]
    source_author_id: Int64[np.ndarray, " rows"]
    original_id: Int64[np.ndarray, " rows"]
    state: UInt32[np.ndarray, " rows"]
    is_video: Bool[np.ndarray, " rows"]


class Scratch(NamedTuple):
    """Working memory of a read; all zero between reads, so one read at a time."""

    followed: UInt8[np.ndarray, " slots"]  # a bit for each author's slot
    seen: Int32[np.ndarray, "slots 4"]  # for each author: scanned and kept, in the first list and in the second
    excluded: UInt8[np.ndarray, " rows"]  # a bit for each row


class Query(NamedTuple):
    """The query of one viewer; `first` and `second` are the limits of an author's two lists."""

    viewer: int
    viewer_print: int
    oldest_ms: int
    first: int
    second: int
    scan: int
    limit: int
    videos_only: bool
    gathered_cost: int


def scratch(slots: int, rows: int) -> Scratch:
    """Working memory for a number of authors and posts."""
    bits_of_slots, bits_of_rows = (np.zeros(n // 8 + 1, np.uint8) for n in (slots, rows))
    return Scratch(bits_of_slots, np.zeros((slots, 4), np.int32), bits_of_rows)


def query(viewer: int, oldest_ms: int, limits: StoreLimits, limit: int, *, videos_only: bool) -> Query:
    """The query of a viewer; videos are a separate list."""
    first, second = (limits.videos, 0) if videos_only else (limits.originals, limits.replies)
    viewer_print = int(fingerprint(viewer))
    return Query(viewer, viewer_print, oldest_ms, first, second, limits.scan, max(limit, 0), videos_only, GATHERED_COST)


@kernel
def select(
    p: Posts,
    s: Scratch,
    q: Query,
    following: Int64[np.ndarray, " m"],
    excluded: Int64[np.ndarray, " k"],
) -> Int64[np.ndarray, " r"]:
    """The rows of candidates, newest first, ties by descending post id."""
    slots = _mark_followed(p, s, following)
    rows = _mark_excluded(p, s, excluded)
    chosen = np.empty(q.limit, np.int64)
    found = -1
    begin = position(p.timeline, p.created_at, p.post_id, q.oldest_ms, 0)
    if not q.videos_only:
        budget = _walk_budget(p, q, slots, p.timeline.bounds[END] - begin)
        if budget > 0:
            found = _walk(p, s, q, begin, budget, chosen)
            _forget(s.seen, slots)
    if found < 0:
        found = _gather(p, s, q, slots, chosen)
    _unmark(s.followed, slots)
    _unmark(s.excluded, rows)
    return chosen[:found]


@kernel
def _mark_followed(p: Posts, s: Scratch, following: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " k"]:
    """The distinct slots of the followed authors with posts."""
    keys, values, followed = p.authors.table.keys, p.authors.table.values, s.followed
    slots = np.empty(len(following) + 1, np.int64)
    slots[-1] = touch(keys, following)  # a use of the result, so that the compiler keeps the loads
    count = 0
    for author_id in following:
        at = place_of(keys, author_id)
        if at >= 0:
            slot = values[at, FIRST] - 1
            bit = np.uint8(1 << (slot & 7))
            if not followed[slot >> 3] & bit:
                followed[slot >> 3] |= bit
                slots[count] = slot
                count += 1
    return slots[:count]


@kernel
def _mark_excluded(p: Posts, s: Scratch, excluded: Int64[np.ndarray, " k"]) -> Int64[np.ndarray, " r"]:
    keys, values, bits = p.ids.keys, p.ids.values, s.excluded
    rows = np.empty(len(excluded) + 1, np.int64)
    rows[-1] = touch(keys, excluded)
    count = 0
    for post_id in excluded:
        at = place_of(keys, post_id)
        row = values[at, FIRST] - 1 if at >= 0 else -1
        if row >= 0:
            bits[row >> 3] |= np.uint8(1 << (row & 7))
            rows[count] = row
            count += 1
    return rows[:count]


@kernel
def _unmark(bits: UInt8[np.ndarray, " n"], marked: Int64[np.ndarray, " k"]) -> None:
    for each in marked:
        bits[each >> 3] = 0


@kernel
def _forget(seen: Int32[np.ndarray, "slots 4"], slots: Int64[np.ndarray, " k"]) -> None:
    for slot in slots:
        for i in range(4):
            seen[slot, i] = 0


@kernel
def _walk_budget(p: Posts, q: Query, slots: Int64[np.ndarray, " k"], reach: int) -> int:
    """The number of entries to walk at most, 0 if gathering is better.

    The estimate assumes that the posts of each author are spread evenly over the timeline: a share of it then contains
    this share of each author's posts, up to the limits. The iteration approaches the sufficient share from below.
    """
    heads = p.authors.heads
    most = q.first + q.second
    gathered = 0
    for slot in slots:
        count: Any = heads[slot, COUNT]
        gathered += min(count, 2 * most)
    if gathered == 0:
        return 0
    share = min(1.0, q.limit / gathered)
    for _ in range(4):
        held = 0.0
        for slot in slots:
            held += min(share * heads[slot, COUNT], float(most))
        if share >= 1.0 or held >= q.limit:
            break
        share = min(1.0, share * q.limit / held)
    length = share * reach
    if length > q.gathered_cost * (gathered + len(slots)):
        return 0
    budget: Any = max(np.int64(length) * _PATIENCE, _WALKED_AT_ONCE)
    return budget


@inlined
def _verdict(
    excluded: UInt8[np.ndarray, " rows"],
    followed: UInt8[np.ndarray, " slots"],
    state: UInt32[np.ndarray, " rows"],
    viewer_print: int,
    row: int,
    kind: int,
) -> int:
    """Visibility of a post for the viewer: NO, YES or PERHAPS; without age, authors and limits."""
    verdict = YES
    if excluded[row >> 3] >> (row & 7) & 1:
        verdict = NO
    elif kind == REPLY:
        if state[row] == HIDDEN:
            verdict = NO
        elif state[row] != ALWAYS:
            slot: Any = np.int64(state[row]) - 1
            verdict = YES if followed[slot >> 3] >> (slot & 7) & 1 else NO
    elif kind == REPOST and state[row] != UNKNOWN_AUTHOR and (state[row] == CHECK or state[row] == viewer_print):
        verdict = PERHAPS
    return verdict


@kernel
def _shows_viewer(p: Posts, q: Query, row: int) -> bool:
    """True for a repost of the viewer's own post."""
    if p.source_author_id[row] == q.viewer and p.original_id[row] == p.source_post_id[row]:
        return True
    source = row_of(p.ids, p.original_id[row])
    return source >= 0 and p.authors.ids[p.author[source]] == q.viewer


@kernel
def _walk(p: Posts, s: Scratch, q: Query, begin: int, budget: int, chosen: Int64[np.ndarray, " limit"]) -> int:
    """Fill `chosen` from the newest entry back to `begin`; returns the number, -1 for an abandoned walk."""
    tags, rows, state = p.timeline.tag, p.timeline.row, p.state
    followed, seen, excluded = s.followed, s.seen, s.excluded
    found = 0
    if q.limit == 0:
        return 0
    end = p.timeline.bounds[END]
    last = max(begin, end - budget)
    for entry in range(end - 1, last - 1, -1):
        slot: Any = np.int64(tags[entry] >> 2)
        if not followed[slot >> 3] >> (slot & 7) & 1:
            continue
        kind: Any = np.int64(tags[entry] & 3)
        second = (kind + 1) >> 1 & 1  # replies and reposts
        if seen[slot, 2 * second] >= q.scan or seen[slot, 2 * second + 1] >= (q.second if second else q.first):
            continue
        seen[slot, 2 * second] += 1
        row: Any = np.int64(rows[entry])
        verdict = _verdict(excluded, followed, state, q.viewer_print, row, kind)
        if verdict == YES or (verdict == PERHAPS and not _shows_viewer(p, q, row)):
            seen[slot, 2 * second + 1] += 1
            chosen[found] = row
            found += 1
            if found == q.limit:
                return found
    return found if last == begin else -1


@kernel
def _gather(p: Posts, s: Scratch, q: Query, slots: Int64[np.ndarray, " k"], chosen: Int64[np.ndarray, " limit"]) -> int:
    """Fill `chosen` from the posts of each author.

    An author with few posts cannot reach a limit, so these posts are examined only in the final order.
    """
    heads, entries = p.authors.heads, p.authors.entries
    room, touched = 1, 0
    for slot in slots:
        posts: Any = heads[slot, COUNT]
        room += min(posts, max(q.first + q.second, q.scan))
        touched ^= entries[heads[slot, START], 0]
    times, tags = np.empty(room, np.int64), np.empty(room, np.int64)
    times[-1] = touched  # a use of the result, so that the compiler keeps the loads, many at a time
    found = 0
    few = min(q.first, q.second, q.scan)
    for slot in slots:
        start, count = heads[slot, START], heads[slot, COUNT]
        if count <= few:
            for at in range(start + count - 1, start - 1, -1):
                if entries[at, 0] < q.oldest_ms:
                    break
                times[found] = entries[at, 0]
                tags[found] = entries[at, 1] << 1
                found += 1
        else:
            found = _gather_allowed(p, s, q, start, count, times, tags, found)
    return _in_order(p, s, q, times[:found], tags[:found], chosen)


@kernel
def _gather_allowed(
    p: Posts,
    s: Scratch,
    q: Query,
    start: int,
    count: int,
    times: Int64[np.ndarray, " room"],
    tags: Int64[np.ndarray, " room"],
    found: int,
) -> int:
    """Append the allowed posts of one author within the limits, marked as examined; returns the number of all found."""
    entries, state, is_video = p.authors.entries, p.state, p.is_video
    followed, excluded = s.followed, s.excluded
    scanned_first = scanned_second = kept_first = kept_second = 0
    for at in range(start + count - 1, start - 1, -1):
        time, tag = entries[at, 0], entries[at, 1]
        more_first = scanned_first < q.scan and kept_first < q.first
        more_second = scanned_second < q.scan and kept_second < q.second
        if time < q.oldest_ms or not (more_first or more_second):
            break
        row, kind = tag >> 2, tag & 3
        second = not q.videos_only and kind in (REPLY, REPOST)
        if (q.videos_only and not is_video[row]) or not (more_second if second else more_first):
            continue
        if second:
            scanned_second += 1
        else:
            scanned_first += 1
        verdict = _verdict(excluded, followed, state, q.viewer_print, row, kind)
        if verdict == YES or (verdict == PERHAPS and not _shows_viewer(p, q, row)):
            if second:
                kept_second += 1
            else:
                kept_first += 1
            times[found], tags[found] = time, tag << 1 | 1
            found += 1
    return found


@kernel
def _touch(state: UInt32[np.ndarray, " rows"], tags: Int64[np.ndarray, " n"]) -> int:
    touched: Any = 0
    for tag in tags:
        touched ^= np.int64(state[tag >> 3])
    return touched


@kernel
def _in_order(
    p: Posts,
    s: Scratch,
    q: Query,
    times: Int64[np.ndarray, " n"],
    tags: Int64[np.ndarray, " n"],
    chosen: Int64[np.ndarray, " limit"],
) -> int:
    """Fill `chosen` with the newest gathered posts, and examine posts that are not marked."""
    found = 0
    if q.limit == 0 or len(times) == 0:
        return 0
    followed, excluded, state, post_id = s.followed, s.excluded, p.state, p.post_id
    order, begins = newest_first(times)
    chosen[0] = _touch(state, tags)
    for bucket in range(len(begins) - 1):
        begin, end = begins[bucket], begins[bucket + 1]
        if end - begin > 1:
            sort(order, begin, end, times, post_id, tags, 3)
        for place in range(begin, end):
            tag = tags[order[place]]
            row = tag >> 3
            verdict = YES if tag & 1 else _verdict(excluded, followed, state, q.viewer_print, row, tag >> 1 & 3)
            if verdict == YES or (verdict == PERHAPS and not _shows_viewer(p, q, row)):
                chosen[found] = row
                found += 1
                if found == q.limit:
                    return found
    return found
