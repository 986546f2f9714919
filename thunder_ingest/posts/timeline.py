"""The log of posts: all that are stored in order of time, dense, for reads that walk from the newest back.

Order is that of (created_at, post_id), whatever the order of arrival: a batch is merged in from the end, which moves
only what is newer than the batch's own posts. Removal closes up; what expires is the front, so only the beginning
moves.
"""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt8, UInt32

from thunder_ingest.kernels.compiled import kernel

_FIRST_ROOM: Final = 1024
BEGIN, END = 0, 1


class PostLog(NamedTuple):
    """Entries `bounds[BEGIN]` to `bounds[END]` are posts, oldest first."""

    tag: UInt32[np.ndarray, " room"]  # the author's slot, shifted by two, and the kind: all that a walk looks at
    row: Int32[np.ndarray, " room"]
    bounds: Int64[np.ndarray, "2"]


def post_log(room: int = _FIRST_ROOM) -> PostLog:
    """An empty log."""
    return PostLog(np.zeros(room, np.uint32), np.zeros(room, np.int32), np.zeros(2, np.int64))


def with_room(log: PostLog, more: int) -> PostLog:
    """The log with room for `more` posts at its end: moved to the front of its memory, or into a larger one."""
    begin, end = log.bounds.tolist()
    if end + more <= len(log.tag):
        return log
    room = len(log.tag)
    while end - begin + more > room * 3 // 4:
        room = room * 3 // 2
    larger = post_log(room)
    larger.tag[: end - begin] = log.tag[begin:end]
    larger.row[: end - begin] = log.row[begin:end]
    larger.bounds[END] = end - begin
    return larger


@kernel
def position(
    log: PostLog,
    created_at: Int64[np.ndarray, " rows"],
    post_id: Int64[np.ndarray, " rows"],
    time: int,
    id_: int,
) -> int:
    """The first entry that is not older than a time and an id."""
    low, high = log.bounds[BEGIN], log.bounds[END]
    while low < high:
        middle = (low + high) >> 1
        row = log.row[middle]
        if created_at[row] < time or (created_at[row] == time and post_id[row] < id_):
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def merge(
    log: PostLog,
    rows: Int64[np.ndarray, " n"],
    created_at: Int64[np.ndarray, " rows"],
    post_id: Int64[np.ndarray, " rows"],
    author: Int32[np.ndarray, " rows"],
    kind: UInt8[np.ndarray, " rows"],
) -> None:
    """Enter posts; their rows come oldest first and there is room."""
    end = log.bounds[END]
    log.bounds[END] = end + len(rows)
    for left in range(len(rows), 0, -1):
        row = rows[left - 1]
        time, id_ = created_at[row], post_id[row]
        begin = _gallop(log, end, created_at, post_id, time, id_)
        for entry in range(end - 1, begin - 1, -1):
            log.tag[entry + left] = log.tag[entry]
            log.row[entry + left] = log.row[entry]
        end = begin
        log.tag[end + left - 1] = np.uint32(author[row] << 2 | kind[row])
        log.row[end + left - 1] = row


@kernel
def _gallop(
    log: PostLog,
    end: int,
    created_at: Int64[np.ndarray, " rows"],
    post_id: Int64[np.ndarray, " rows"],
    time: int,
    id_: int,
) -> int:
    """The first entry before `end` that is newer, looked for near the end first."""
    first = log.bounds[BEGIN]
    step = 1
    high = end
    low = end
    while low > first:
        low = max(first, high - step)
        row = log.row[low]
        if created_at[row] < time or (created_at[row] == time and post_id[row] < id_):
            low += 1
            break
        high = low
        step *= 2
    while low < high:
        middle = (low + high) >> 1
        row = log.row[middle]
        if created_at[row] < time or (created_at[row] == time and post_id[row] < id_):
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def take_out(
    log: PostLog,
    rows: Int64[np.ndarray, " n"],
    created_at: Int64[np.ndarray, " rows"],
    post_id: Int64[np.ndarray, " rows"],
) -> None:
    """Remove posts; their rows come oldest first and still say when they were created."""
    if len(rows) == 0:
        return
    gone = 0
    while gone < len(rows) and log.row[log.bounds[BEGIN]] == rows[gone]:
        log.bounds[BEGIN] += 1
        gone += 1
    if gone == len(rows):
        return
    kept = position(log, created_at, post_id, created_at[rows[gone]], post_id[rows[gone]])
    for entry in range(kept, log.bounds[END]):
        if gone < len(rows) and log.row[entry] == rows[gone]:
            gone += 1
        else:
            log.tag[kept] = log.tag[entry]
            log.row[kept] = log.row[entry]
            kept += 1
    log.bounds[END] = kept
