"""The read rules of Thunder: which posts of followed authors may be candidates, the newest of them first.

Two ways lead to the same posts. The walk goes back over the log of all posts, newest first, and stops when it has
enough: best where the followed authors post much. Gathering takes each author's own posts and orders them: best where
they post little. An estimate of the walk's length decides; a walk that turns out far longer is given up for gathering.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt32

from thunder_ingest.events import REPLY, REPOST
from thunder_ingest.kernels.compiled import inlined, kernel
from thunder_ingest.kernels.id_table import FIRST, IdTable, place_of, touch
from thunder_ingest.posts import timeline as post_log
from thunder_ingest.posts.author_index import COUNT, START, AuthorIndex
from thunder_ingest.posts.newest_first import newest_first, sort
from thunder_ingest.posts.references import ALWAYS, CHECK, HIDDEN, NOBODY, fingerprint, row_of
from thunder_ingest.posts.timeline import END, PostLog

DAY_MS = 86_400_000

_WALKED_AT_ONCE: Final = 20_000
GATHERED_COST = 25
"""Entries of the log that are walked in the time in which one author or one post is gathered."""
_PATIENCE: Final = 4
"""A walk so many times longer than its estimate is given up."""
NO, YES, PERHAPS = 0, 1, 2


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much of an author is read, and how old it may be: the published numbers.

    `originals` (quotes among them), `replies` (reposts among them) and `videos` are per author; `scan` is how many of
    an author's newest posts of such a list are looked at.
    """

    originals: int = 50
    replies: int = 30
    videos: int = 100
    scan: int = 500
    max_age_ms: int = 2 * DAY_MS
    max_results: int = 1200
    min_video_ms: int = 5_000


class Posts(NamedTuple):
    """What a read looks at: the store's own arrays."""

    ids: IdTable
    authors: AuthorIndex
    log: PostLog
    post_id: Int64[np.ndarray, " rows"]
    created_at: Int64[np.ndarray, " rows"]
    author: Int32[np.ndarray, " rows"]
    source_post_id: Int64[np.ndarray, " rows"]
    source_author_id: Int64[np.ndarray, " rows"]
    state: UInt32[np.ndarray, " rows"]
    is_video: Bool[np.ndarray, " rows"]


class Scratch(NamedTuple):
    """Room for what a read knows of its viewer; zeros between reads, hence one read at a time."""

    followed: UInt8[np.ndarray, " slots"]  # a bit for each author's slot
    seen: Int32[np.ndarray, "slots 4"]  # of each author scanned and kept, in the one list and in the other
    excluded: UInt8[np.ndarray, " rows"]  # a bit for each row


class Asked(NamedTuple):
    """What one viewer asks for, in numbers; `first` and `second` are the limits of an author's two lists."""

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
    """Room for so many authors and posts."""
    bits_of_slots, bits_of_rows = (np.zeros(n // 8 + 1, np.uint8) for n in (slots, rows))
    return Scratch(bits_of_slots, np.zeros((slots, 4), np.int32), bits_of_rows)


def asked(viewer: int, oldest_ms: int, limits: StoreLimits, limit: int, *, videos_only: bool) -> Asked:
    """The question of a viewer; videos are a list of their own."""
    first, second = (limits.videos, 0) if videos_only else (limits.originals, limits.replies)
    viewer_print = int(fingerprint(viewer))
    return Asked(viewer, viewer_print, oldest_ms, first, second, limits.scan, max(limit, 0), videos_only, GATHERED_COST)


@kernel
def select(
    p: Posts,
    s: Scratch,
    a: Asked,
    following: Int64[np.ndarray, " m"],
    excluded: Int64[np.ndarray, " k"],
) -> Int64[np.ndarray, " r"]:
    """The rows that may be candidates, newest first, ties by post id."""
    slots = _mark_followed(p, s, following)
    rows = _mark_excluded(p, s, excluded)
    chosen = np.empty(a.limit, np.int64)
    found = -1
    begin = post_log.position(p.log, p.created_at, p.post_id, a.oldest_ms, 0)
    if not a.videos_only:
        budget = _walk_budget(p, a, slots, p.log.bounds[END] - begin)
        if budget > 0:
            found = _walk(p, s, a, begin, budget, chosen)
            _forget(s.seen, slots)
    if found < 0:
        found = _gather(p, s, a, slots, chosen)
    _unmark(s.followed, slots)
    _unmark(s.excluded, rows)
    return chosen[:found]


@kernel
def _mark_followed(p: Posts, s: Scratch, following: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " k"]:
    """The slots of the followed authors who have posts, each once."""
    keys, values, followed = p.authors.table.keys, p.authors.table.values, s.followed
    slots = np.empty(len(following) + 1, np.int64)
    slots[-1] = touch(keys, following)  # kept, so that it is done
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
def _walk_budget(p: Posts, a: Asked, slots: Int64[np.ndarray, " k"], reach: int) -> int:
    """How many entries may be walked, 0 where gathering is better.

    If posts of all authors are spread evenly over the log, a share of it holds that share of each author's posts, up
    to the author's limits: the share that holds enough is approached from below.
    """
    heads = p.authors.heads
    most = a.first + a.second
    gathered = 0
    for slot in slots:
        count: Any = heads[slot, COUNT]
        gathered += min(count, 2 * most)
    if gathered == 0:
        return 0
    share = min(1.0, a.limit / gathered)
    for _ in range(4):
        held = 0.0
        for slot in slots:
            held += min(share * heads[slot, COUNT], float(most))
        if share >= 1.0 or held >= a.limit:
            break
        share = min(1.0, share * a.limit / held)
    length = share * reach
    if length > a.gathered_cost * (gathered + len(slots)):
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
    """Whether a post is shown to this viewer: NO, YES or PERHAPS; age, authors and limits are looked at elsewhere."""
    verdict = YES
    if excluded[row >> 3] >> (row & 7) & 1:
        verdict = NO
    elif kind == REPLY:
        if state[row] == HIDDEN:
            verdict = NO
        elif state[row] != ALWAYS:
            slot: Any = np.int64(state[row]) - 1
            verdict = YES if followed[slot >> 3] >> (slot & 7) & 1 else NO
    elif kind == REPOST and state[row] != NOBODY and (state[row] == CHECK or state[row] == viewer_print):
        verdict = PERHAPS
    return verdict


@kernel
def _shows_viewer(p: Posts, a: Asked, row: int) -> bool:
    """Whether a repost is of the viewer's own post."""
    if p.source_author_id[row] == a.viewer:
        return True
    source = row_of(p.ids, p.source_post_id[row])
    return source >= 0 and p.authors.ids[p.author[source]] == a.viewer


@kernel
def _walk(p: Posts, s: Scratch, a: Asked, begin: int, budget: int, chosen: Int64[np.ndarray, " limit"]) -> int:
    """Fill `chosen` from the newest entry back to `begin`; returns how many, -1 if the walk is given up."""
    tags, rows, state = p.log.tag, p.log.row, p.state
    followed, seen, excluded = s.followed, s.seen, s.excluded
    found = 0
    if a.limit == 0:
        return 0
    end = p.log.bounds[END]
    last = max(begin, end - budget)
    for entry in range(end - 1, last - 1, -1):
        slot: Any = np.int64(tags[entry] >> 2)
        if not followed[slot >> 3] >> (slot & 7) & 1:
            continue
        kind: Any = np.int64(tags[entry] & 3)
        second = (kind + 1) >> 1 & 1  # replies and reposts
        if seen[slot, 2 * second] >= a.scan or seen[slot, 2 * second + 1] >= (a.second if second else a.first):
            continue
        seen[slot, 2 * second] += 1
        row: Any = np.int64(rows[entry])
        verdict = _verdict(excluded, followed, state, a.viewer_print, row, kind)
        if verdict == YES or (verdict == PERHAPS and not _shows_viewer(p, a, row)):
            seen[slot, 2 * second + 1] += 1
            chosen[found] = row
            found += 1
            if found == a.limit:
                return found
    return found if last == begin else -1


@kernel
def _gather(p: Posts, s: Scratch, a: Asked, slots: Int64[np.ndarray, " k"], chosen: Int64[np.ndarray, " limit"]) -> int:
    """Fill `chosen` from the posts of each author.

    What an author has few of cannot meet a limit: such posts are looked at only when their turn comes.
    """
    heads, entries = p.authors.heads, p.authors.entries
    room, touched = 1, 0
    for slot in slots:
        posts: Any = heads[slot, COUNT]
        room += min(posts, max(a.first + a.second, a.scan))
        touched ^= entries[heads[slot, START], 0]
    times, tags = np.empty(room, np.int64), np.empty(room, np.int64)
    times[-1] = touched  # kept, so that it is done: many blocks come into the cache at a time
    found = 0
    few = min(a.first, a.second, a.scan)
    for slot in slots:
        start, count = heads[slot, START], heads[slot, COUNT]
        if count <= few:
            for at in range(start + count - 1, start - 1, -1):
                if entries[at, 0] < a.oldest_ms:
                    break
                times[found] = entries[at, 0]
                tags[found] = entries[at, 1] << 1
                found += 1
        else:
            found = _gather_allowed(p, s, a, start, count, times, tags, found)
    return _in_order(p, s, a, times[:found], tags[:found], chosen)


@kernel
def _gather_allowed(
    p: Posts,
    s: Scratch,
    a: Asked,
    start: int,
    count: int,
    times: Int64[np.ndarray, " room"],
    tags: Int64[np.ndarray, " room"],
    found: int,
) -> int:
    """The allowed posts of one author within the limits, marked as looked at; returns how many are found now."""
    entries, state, is_video = p.authors.entries, p.state, p.is_video
    followed, excluded = s.followed, s.excluded
    scanned_first = scanned_second = kept_first = kept_second = 0
    for at in range(start + count - 1, start - 1, -1):
        time, tag = entries[at, 0], entries[at, 1]
        more_first = scanned_first < a.scan and kept_first < a.first
        more_second = scanned_second < a.scan and kept_second < a.second
        if time < a.oldest_ms or not (more_first or more_second):
            break
        row, kind = tag >> 2, tag & 3
        second = not a.videos_only and kind in (REPLY, REPOST)
        if (a.videos_only and not is_video[row]) or not (more_second if second else more_first):
            continue
        if second:
            scanned_second += 1
        else:
            scanned_first += 1
        verdict = _verdict(excluded, followed, state, a.viewer_print, row, kind)
        if verdict == YES or (verdict == PERHAPS and not _shows_viewer(p, a, row)):
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
    a: Asked,
    times: Int64[np.ndarray, " n"],
    tags: Int64[np.ndarray, " n"],
    chosen: Int64[np.ndarray, " limit"],
) -> int:
    """The newest of the gathered posts; those not looked at yet are."""
    found = 0
    if a.limit == 0 or len(times) == 0:
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
            verdict = YES if tag & 1 else _verdict(excluded, followed, state, a.viewer_print, row, tag >> 1 & 3)
            if verdict == YES or (verdict == PERHAPS and not _shows_viewer(p, a, row)):
                chosen[found] = row
                found += 1
                if found == a.limit:
                    return found
    return found
