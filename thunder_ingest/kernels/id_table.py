"""A hash table from ids to two small integers, open addressing with linear probing: one cache line for a look-up."""

from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from thunder_ingest.kernels.compiled import inlined, kernel

_FIRST_ROOM: Final = 2048
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_HALF: Final = np.uint64(32)
_TOP: Final = np.uint64(24)

FIRST, SECOND = 2, 3
"""Columns of `IdTable.values`: two integers for each id, 0 until they are set."""


class IdTable(NamedTuple):
    """`keys` and `values` are two views of the same memory, 16 bytes a place; the number of places is a power of 2."""

    keys: Int64[np.ndarray, "places 2"]  # column 0 is the id, 0 where the place is free
    values: Int32[np.ndarray, "places 4"]  # columns FIRST and SECOND
    used: Int64[np.ndarray, "1"]


def id_table(places: int = _FIRST_ROOM) -> IdTable:
    """An empty table."""
    keys = np.zeros((places, 2), np.int64)
    return IdTable(keys, keys.view(np.int32), np.zeros(1, np.int64))


def with_room(table: IdTable, more: int) -> IdTable:
    """The table, or a larger one with the same contents, so that `more` ids fit and look-ups stay short."""
    needed = int(table.used[0]) + more
    places = len(table.keys)
    while needed > places * 5 // 8:
        places *= 2
    if places == len(table.keys):
        return table
    larger = id_table(places)
    copy_entries(table, larger)
    return larger


@inlined
def home(id_: int, places: int) -> int:
    """Where the search for an id begins."""
    mixed: Any = np.uint64(id_)
    mixed = (mixed ^ (mixed >> _HALF)) * _MIX
    mixed = (mixed ^ (mixed >> _HALF)) * _MIX
    place: Any = np.int64(mixed >> _TOP) & (places - 1)
    return place


@inlined
def place_of(keys: Int64[np.ndarray, "places 2"], id_: int) -> int:
    """The place of an id among the keys of a table, -1 where it has none."""
    at = home(id_, len(keys))
    while keys[at, 0] != 0:
        if keys[at, 0] == id_:
            return at
        at = (at + 1) & (len(keys) - 1)
    return -1


@kernel
def touch(keys: Int64[np.ndarray, "places 2"], ids: Int64[np.ndarray, " n"]) -> int:
    """Bring the places of ids into the cache, many at a time: nothing waits for what one of them holds."""
    sum_ = 0
    for id_ in ids:
        sum_ ^= keys[home(id_, len(keys)), 0]
    return sum_


@inlined
def claim(table: IdTable, id_: int) -> int:
    """The place of an id, a new one where it had none."""
    keys = table.keys
    at = home(id_, len(keys))
    while keys[at, 0] != 0:
        if keys[at, 0] == id_:
            return at
        at = (at + 1) & (len(keys) - 1)
    keys[at, 0] = id_
    table.used[0] += 1
    return at


@kernel
def release(table: IdTable, at: int) -> None:
    """Take out the id at a place; those behind it close up."""
    keys = table.keys
    mask = len(keys) - 1
    gap = at
    look = (at + 1) & mask
    while keys[look, 0] != 0:
        if (look - home(keys[look, 0], len(keys))) & mask >= (look - gap) & mask:
            keys[gap, 0], keys[gap, 1] = keys[look, 0], keys[look, 1]
            gap = look
        look = (look + 1) & mask
    keys[gap, 0] = 0
    keys[gap, 1] = 0
    table.used[0] -= 1


@kernel
def copy_entries(table: IdTable, into: IdTable) -> None:
    """Enter what one table holds into another."""
    for at in range(len(table.keys)):
        if table.keys[at, 0] != 0:
            place = claim(into, table.keys[at, 0])
            into.keys[place, 1] = table.keys[at, 1]
