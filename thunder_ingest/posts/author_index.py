"""The author index: the posts of each author in order of time, for reads of authors with few posts.

Each author with posts has a slot, a small integer inside the store, and a block of entries in one array. An entry has
the time of a post beside its row, so a read touches nothing else. The size of a block is a power of two (segregated
free lists: Knuth, TAOCP 1, 2.5). An author whose block is too small or nearly empty moves to another block.

glossary of shapes: `slots` of authors, `entries` of all blocks, `rows` of the store, `n` given rows or authors.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt8
from numpy.typing import NDArray

from thunder_ingest.kernels.compiled import inlined, kernel
from thunder_ingest.kernels.id_table import FIRST, IdTable, claim, id_table, place_of, release
from thunder_ingest.kernels.id_table import with_room as table_with_room

_FIRST_SLOTS: Final = 1024
_FIRST_ENTRIES: Final = 4096
_CLASSES: Final = 40
START, COUNT, SIZE_CLASS = 0, 1, 2
_SLOTS_USED, _FREE_SLOT, _ENTRIES_USED, _FREE_BLOCKS = 0, 1, 2, 3


class AuthorIndex(NamedTuple):
    """Slots and blocks of authors.

    `state` has the numbers of slots and entries in use, and the heads of the free lists, plus one: of slots, and of the
    blocks of each size; 0 is an empty list. A free slot has the next one in its COUNT, a free block in its first entry.
    """

    table: IdTable  # author id → slot + 1
    ids: Int64[np.ndarray, " slots"]
    heads: Int32[np.ndarray, "slots 4"]  # start of the block, entries in use, log2 of the size
    entries: Int64[np.ndarray, "entries 2"]  # created_at; row << 2 | kind
    state: Int64[np.ndarray, "44"]


def author_index() -> AuthorIndex:
    """An index without authors."""
    return AuthorIndex(
        id_table(),
        np.zeros(_FIRST_SLOTS, np.int64),
        np.zeros((_FIRST_SLOTS, 4), np.int32),
        np.zeros((_FIRST_ENTRIES, 2), np.int64),
        np.zeros(_FREE_BLOCKS + _CLASSES + 1, np.int64),
    )


def with_slots(index: AuthorIndex, more: int) -> AuthorIndex:
    """The index with room for `more` authors."""
    slots = len(index.ids)
    while index.state[_SLOTS_USED] + more > slots:
        slots *= 2
    index = index._replace(table=table_with_room(index.table, more))
    return index._replace(ids=longer(index.ids, slots), heads=longer(index.heads, slots))


def with_more_entries(index: AuthorIndex) -> AuthorIndex:
    """The index with 50 % more room for blocks."""
    return index._replace(entries=longer(index.entries, len(index.entries) * 3 // 2))


def longer(array: NDArray[Any], length: int) -> NDArray[Any]:
    """An array extended by zeros; untouched pages cost no memory."""
    if length == len(array):
        return array
    larger = np.zeros((length, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


@kernel
def slots_for(index: AuthorIndex, authors: Int64[np.ndarray, " n"], slots: Int32[np.ndarray, " n"]) -> None:
    """Write the slots of authors, new slots for new authors; the index has room."""
    for i in range(len(authors)):
        at = claim(index.table, authors[i])
        if index.table.values[at, FIRST] == 0:
            slot = index.state[_FREE_SLOT] - 1
            if slot >= 0:
                index.state[_FREE_SLOT] = index.heads[slot, COUNT]
            else:
                slot = index.state[_SLOTS_USED]
                index.state[_SLOTS_USED] += 1
            index.ids[slot] = authors[i]
            index.heads[slot, START] = -1
            index.heads[slot, COUNT] = 0
            index.heads[slot, SIZE_CLASS] = 0
            index.table.values[at, FIRST] = slot + 1
        slots[i] = index.table.values[at, FIRST] - 1


@kernel
def _new_block(index: AuthorIndex, size_class: int) -> int:
    """The start of a new block of a size, -1 if the array is too short."""
    free = _FREE_BLOCKS + size_class
    start = index.state[free] - 1
    if start >= 0:
        index.state[free] = index.entries[start, 0]
        return start
    start = index.state[_ENTRIES_USED]
    if start + (1 << size_class) > len(index.entries):
        return -1
    index.state[_ENTRIES_USED] = start + (1 << size_class)
    return start


@kernel
def _free_block(index: AuthorIndex, start: int, size_class: int) -> None:
    free = _FREE_BLOCKS + size_class
    index.entries[start, 0] = index.state[free]
    index.state[free] = start + 1


@kernel
def _resize(index: AuthorIndex, slot: int, count: int) -> bool:
    """Move an author's entries into a block for `count`; False if the array is too short."""
    size_class = 0
    while 1 << size_class < count:
        size_class += 1
    old, old_class = index.heads[slot, START], index.heads[slot, SIZE_CLASS]
    if old >= 0 and size_class == old_class:
        return True
    start = _new_block(index, size_class)
    if start < 0:
        return False
    for i in range(index.heads[slot, COUNT]):
        index.entries[start + i, 0] = index.entries[old + i, 0]
        index.entries[start + i, 1] = index.entries[old + i, 1]
    if old >= 0:
        _free_block(index, old, old_class)
    index.heads[slot, START] = start
    index.heads[slot, SIZE_CLASS] = size_class
    return True


@inlined
def _is_older(index: AuthorIndex, at: int, time: int, id_: int, post_id: Int64[np.ndarray, " rows"]) -> bool:
    if index.entries[at, 0] != time:
        return index.entries[at, 0] < time
    return post_id[index.entries[at, 1] >> 2] < id_


@inlined
def _run(rows: Int64[np.ndarray, " n"], begin: int, author: Int32[np.ndarray, " rows"]) -> int:
    """The end of the run of rows by one author that starts at `begin`."""
    end = begin + 1
    while end < len(rows) and author[rows[end]] == author[rows[begin]]:
        end += 1
    return end


@kernel
def merge(
    index: AuthorIndex,
    rows: Int64[np.ndarray, " n"],
    begin: int,
    created_at: Int64[np.ndarray, " rows"],
    post_id: Int64[np.ndarray, " rows"],
    author: Int32[np.ndarray, " rows"],
    kind: UInt8[np.ndarray, " rows"],
) -> int:
    """Insert the posts in `rows` from `begin` on; rows are grouped by author, oldest first.

    Returns:
        the number of inserted `rows`; fewer than all if the array of entries is too short.

    """
    while begin < len(rows):
        end = _run(rows, begin, author)
        slot = author[rows[begin]]
        count = index.heads[slot, COUNT]
        grown = count + end - begin
        if (index.heads[slot, START] < 0 or grown > 1 << index.heads[slot, SIZE_CLASS]) and not _resize(
            index, slot, grown
        ):
            return begin
        start = index.heads[slot, START]
        last = start + count - 1
        for left in range(end - begin, 0, -1):
            row = rows[begin + left - 1]
            while last >= start and not _is_older(index, last, created_at[row], post_id[row], post_id):
                index.entries[last + left, 0] = index.entries[last, 0]
                index.entries[last + left, 1] = index.entries[last, 1]
                last -= 1
            index.entries[last + left, 0] = created_at[row]
            index.entries[last + left, 1] = np.int64(row) << 2 | kind[row]
        index.heads[slot, COUNT] = grown
        begin = end
    return begin


@kernel
def sums_of(
    index: AuthorIndex,
    authors: Int64[np.ndarray, " n"],
    values: Int32[np.ndarray, " rows"],
    sums: Int64[np.ndarray, " n"],
) -> None:
    """Write the sum of the values of each author's posts, 0 for an author without posts."""
    for i in range(len(authors)):
        sums[i] = 0
        place = place_of(index.table.keys, authors[i])
        if place >= 0:
            slot = index.table.values[place, FIRST] - 1
            start = index.heads[slot, START]
            for at in range(start, start + index.heads[slot, COUNT]):
                sums[i] += values[index.entries[at, 1] >> 2]


@kernel
def take_out(
    index: AuthorIndex,
    rows: Int64[np.ndarray, " n"],
    created_at: Int64[np.ndarray, " rows"],
    post_id: Int64[np.ndarray, " rows"],
    author: Int32[np.ndarray, " rows"],
) -> None:
    """Remove posts, grouped by author, oldest first; an author without posts loses the slot."""
    begin = 0
    while begin < len(rows):
        end = _run(rows, begin, author)
        slot = author[rows[begin]]
        start, count = index.heads[slot, START], index.heads[slot, COUNT]
        low, high = start, start + count
        while low < high:
            middle = (low + high) >> 1
            if _is_older(index, middle, created_at[rows[begin]], post_id[rows[begin]], post_id):
                low = middle + 1
            else:
                high = middle
        gone = begin
        kept = low
        for at in range(low, start + count):
            if gone < end and index.entries[at, 1] >> 2 == rows[gone]:
                gone += 1
            else:
                index.entries[kept, 0] = index.entries[at, 0]
                index.entries[kept, 1] = index.entries[at, 1]
                kept += 1
        count = kept - start
        index.heads[slot, COUNT] = count
        if count == 0:
            _free_block(index, start, index.heads[slot, SIZE_CLASS])
            release(index.table, place_of(index.table.keys, index.ids[slot]))
            index.ids[slot] = 0
            index.heads[slot, COUNT] = index.state[_FREE_SLOT]
            index.state[_FREE_SLOT] = slot + 1
        elif count * 4 <= 1 << index.heads[slot, SIZE_CLASS]:
            _resize(index, slot, count * 2)
        begin = end
