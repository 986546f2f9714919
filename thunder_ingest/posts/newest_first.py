"""A lazy bucket sort of posts by time, for reads that need only the newest (Knuth, TAOCP 3, 5.2.5)."""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Int64

from thunder_ingest.kernels.compiled import inlined, kernel

_FEW: Final = 12


class Buckets(NamedTuple):
    """Indexes of posts by bucket, the newest bucket first; within a bucket in no order."""

    order: Int64[np.ndarray, " n"]
    begin: Int64[np.ndarray, " buckets"]  # and the end of the last bucket


@kernel
def newest_first(times: Int64[np.ndarray, " n"]) -> Buckets:
    """Distribute posts over about as many buckets as posts, each of the same time span."""
    newest, oldest = times[0], times[0]
    for time in times:
        newest, oldest = max(newest, time), min(oldest, time)
    width = (newest - oldest) // len(times) + 1
    begin = np.zeros((newest - oldest) // width + 2, np.int64)
    bucket = np.empty(len(times), np.int32)
    for i in range(len(times)):
        bucket[i] = (newest - times[i]) // width
        begin[bucket[i] + 1] += 1
    for i in range(1, len(begin)):
        begin[i] += begin[i - 1]
    order = np.empty(len(times), np.int64)
    filled = begin.copy()
    for i in range(len(times)):
        order[filled[bucket[i]]] = i
        filled[bucket[i]] += 1
    return Buckets(order, begin)


@kernel
def sort(
    order: Int64[np.ndarray, " n"],
    begin: int,
    end: int,
    times: Int64[np.ndarray, " n"],
    ids: Int64[np.ndarray, " rows"],
    tags: Int64[np.ndarray, " n"],
    shift: int,
) -> None:
    """Sort `order[begin:end]` newest first, ties by the id at row `tags >> shift`: insertion sort or heapsort."""
    if end - begin > _FEW:
        for root in range((end - begin) // 2 - 1, -1, -1):
            _sift(order, begin, root, end - begin, times, ids, tags, shift)
        for length in range(end - begin - 1, 0, -1):
            order[begin], order[begin + length] = order[begin + length], order[begin]
            _sift(order, begin, 0, length, times, ids, tags, shift)
        return
    for i in range(begin + 1, end):
        moving = order[i]
        place = i
        while place > begin and _is_newer(moving, order[place - 1], times, ids, tags, shift):
            order[place] = order[place - 1]
            place -= 1
        order[place] = moving


@inlined
def _is_newer(
    one: int,
    other: int,
    times: Int64[np.ndarray, " n"],
    ids: Int64[np.ndarray, " rows"],
    tags: Int64[np.ndarray, " n"],
    shift: int,
) -> bool:
    if times[one] != times[other]:
        return times[one] > times[other]
    return ids[tags[one] >> shift] > ids[tags[other] >> shift]


@kernel
def _sift(
    order: Int64[np.ndarray, " n"],
    begin: int,
    root: int,
    length: int,
    times: Int64[np.ndarray, " n"],
    ids: Int64[np.ndarray, " rows"],
    tags: Int64[np.ndarray, " n"],
    shift: int,
) -> None:
    """Sift an index down a heap with the oldest post at the root."""
    while 2 * root + 1 < length:
        child = 2 * root + 1
        if child + 1 < length and _is_newer(order[begin + child], order[begin + child + 1], times, ids, tags, shift):
            child += 1
        if not _is_newer(order[begin + root], order[begin + child], times, ids, tags, shift):
            return
        order[begin + root], order[begin + child] = order[begin + child], order[begin + root]
        root = child
