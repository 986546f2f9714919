"""The timeline: all stored posts in order of (created_at, post_id), dense, for walks from the newest post back.

The order of arrival makes no difference. A batch is merged from the end, which moves only entries newer than the
batch's own posts. A removal closes the gap. Expiry removes the front, so it only moves the beginning.

glossary of shapes: `room` entries, `rows` of the store, `n` given rows.
"""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt8, UInt32

from thunder_ingest.kernels.compiled import kernel

_FIRST_ROOM: Final = 1024
BEGIN, END = 0, 1


class Timeline(NamedTuple):
    """Entries `bounds[BEGIN]` to `bounds[END]` are posts, oldest first."""

    tag: UInt32[np.ndarray, " room"]  # slot of the author << 2 | kind, which is enough for most steps of a walk
    row: Int32[np.ndarray, " room"]
    bounds: Int64[np.ndarray, "2"]


def timeline(room: int = _FIRST_ROOM) -> Timeline:
    """An empty timeline."""
    return Timeline(np.zeros(room, np.uint32), np.zeros(room, np.int32), np.zeros(2, np.int64))


def with_room(line: Timeline, more: int) -> Timeline:
    """The timeline, or a copy that begins at the front, larger if needed, with room for `more` posts at the end."""
    begin, end = line.bounds.tolist()
    if end + more <= len(line.tag):
        return line
    room = len(line.tag)
    while end - begin + more > room * 3 // 4:
        room = room * 3 // 2
    larger = timeline(room)
    larger.tag[: end - begin] = line.tag[begin:end]
    larger.row[: end - begin] = line.row[begin:end]
    larger.bounds[END] = end - begin
    return larger


@kernel
def position(
    line: Timeline,
    created_at: Int64[np.ndarray, " rows"],
    post_id: Int64[np.ndarray, " rows"],
    time: int,
    id_: int,
) -> int:
    """The first entry that is not older than (time, id): a binary search."""
    low, high = line.bounds[BEGIN], line.bounds[END]
    while low < high:
        middle = (low + high) >> 1
        row = line.row[middle]
        if created_at[row] < time or (created_at[row] == time and post_id[row] < id_):
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def merge(
    line: Timeline,
    rows: Int64[np.ndarray, " n"],
    created_at: Int64[np.ndarray, " rows"],
    post_id: Int64[np.ndarray, " rows"],
    author: Int32[np.ndarray, " rows"],
    kind: UInt8[np.ndarray, " rows"],
) -> None:
    """Insert posts; their rows come oldest first, after `with_room`."""
    end = line.bounds[END]
    line.bounds[END] = end + len(rows)
    for left in range(len(rows), 0, -1):
        row = rows[left - 1]
        time, id_ = created_at[row], post_id[row]
        begin = _gallop(line, end, created_at, post_id, time, id_)
        for entry in range(end - 1, begin - 1, -1):
            line.tag[entry + left] = line.tag[entry]
            line.row[entry + left] = line.row[entry]
        end = begin
        line.tag[end + left - 1] = np.uint32(author[row] << 2 | kind[row])
        line.row[end + left - 1] = row


@kernel
def _gallop(
    line: Timeline,
    end: int,
    created_at: Int64[np.ndarray, " rows"],
    post_id: Int64[np.ndarray, " rows"],
    time: int,
    id_: int,
) -> int:
    """The first entry before `end` that is newer: a galloping search from the end (Bentley and Yao, 1976)."""
    first = line.bounds[BEGIN]
    step = 1
    high = end
    low = end
    while low > first:
        low = max(first, high - step)
        row = line.row[low]
        if created_at[row] < time or (created_at[row] == time and post_id[row] < id_):
            low += 1
            break
        high = low
        step *= 2
    while low < high:
        middle = (low + high) >> 1
        row = line.row[middle]
        if created_at[row] < time or (created_at[row] == time and post_id[row] < id_):
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def take_out(
    line: Timeline,
    rows: Int64[np.ndarray, " n"],
    created_at: Int64[np.ndarray, " rows"],
    post_id: Int64[np.ndarray, " rows"],
) -> None:
    """Remove posts; their rows come oldest first, with their creation times still in place."""
    if len(rows) == 0:
        return
    gone = 0
    while gone < len(rows) and line.row[line.bounds[BEGIN]] == rows[gone]:
        line.bounds[BEGIN] += 1
        gone += 1
    if gone == len(rows):
        return
    kept = position(line, created_at, post_id, created_at[rows[gone]], post_id[rows[gone]])
    for entry in range(kept, line.bounds[END]):
        if gone < len(rows) and line.row[entry] == rows[gone]:
            gone += 1
        else:
            line.tag[kept] = line.tag[entry]
            line.row[kept] = line.row[entry]
            kept += 1
    line.bounds[END] = kept
