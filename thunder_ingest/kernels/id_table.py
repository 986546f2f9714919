"""A hash table from int64 ids to two int32 values: open addressing with linear probing, a power of two of places.

Deletion shifts the entries behind the gap back (Knuth, TAOCP 3, 6.4, algorithm R), so a table needs no tombstones. Id
and values share 16 bytes: a look-up touches one cache line. Id 0 marks a free place, so it is never an entry.

glossary of shapes: `places` of a table, `n` ids, `held` entries.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from thunder_ingest.kernels.compiled import inlined, kernel
from thunder_ingest.kernels.hashing import splitmix64

_FIRST_PLACES: Final = 2048

FIRST, SECOND = 2, 3
"""Columns of `IdTable.values`: the two values of an id, 0 until they are set."""

mix: Final = inlined(splitmix64)
"""`splitmix64` of a scalar inside a kernel."""


class IdTable(NamedTuple):
    """`keys` and `values` are two views of the same memory, 16 bytes a place."""

    keys: Int64[np.ndarray, "places 2"]  # column 0 is the id, 0 where the place is free
    values: Int32[np.ndarray, "places 4"]  # columns FIRST and SECOND
    used: Int64[np.ndarray, "1"]


def id_table(places: int = _FIRST_PLACES) -> IdTable:
    """An empty table; `places` is a power of two."""
    keys = np.zeros((places, 2), np.int64)
    return IdTable(keys, keys.view(np.int32), np.zeros(1, np.int64))


def with_room(table: IdTable, more: int) -> IdTable:
    """The table, or a larger copy, with room for `more` ids: at most five of eight places are taken."""
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
    """The place at which the search for an id begins."""
    place: Any = np.int64(mix(np.uint64(id_))) & (places - 1)
    return place


@inlined
def _search(keys: Int64[np.ndarray, "places 2"], id_: int) -> int:
    """The place of an id, or the free place at which the search for it ends."""
    at = home(id_, len(keys))
    while keys[at, 0] != 0 and keys[at, 0] != id_:
        at = (at + 1) & (len(keys) - 1)
    return at


@inlined
def place_of(keys: Int64[np.ndarray, "places 2"], id_: int) -> int:
    """The place of an id among the keys of a table, -1 without an entry."""
    at = _search(keys, id_)
    return at if keys[at, 0] != 0 else -1


@inlined
def index_of(keys: Int64[np.ndarray, "places 2"], values: Int32[np.ndarray, "places 4"], id_: int) -> int:
    """The index of an id whose FIRST value is an index plus one; -1 without an entry."""
    at = place_of(keys, id_)
    return values[at, FIRST] - 1 if at >= 0 else -1


@kernel
def find_indices(
    keys: Int64[np.ndarray, "places 2"],
    values: Int32[np.ndarray, "places 4"],
    ids: Int64[np.ndarray, " n"],
    indices: Int64[np.ndarray, " n"],
) -> None:
    """Write `index_of` for each id."""
    for i in range(len(ids)):
        indices[i] = index_of(keys, values, ids[i])


@kernel
def touch(keys: Int64[np.ndarray, "places 2"], ids: Int64[np.ndarray, " n"]) -> int:
    """Load the places of ids into the cache; the loads are independent, so many are in flight at a time."""
    sum_ = 0
    for id_ in ids:
        sum_ ^= keys[home(id_, len(keys)), 0]
    return sum_


@inlined
def claim_in(keys: Int64[np.ndarray, "places 2"], used: Int64[np.ndarray, "1"], id_: int) -> int:
    """The place of an id, a new one if it has no entry; the table has room, and the id is not 0."""
    at = _search(keys, id_)
    used[0] += keys[at, 0] == 0
    keys[at, 0] = id_
    return at


@inlined
def claim(table: IdTable, id_: int) -> int:
    """Like `claim_in`, which is faster in loops: each use of a member of a tuple counts a reference."""
    return claim_in(table.keys, table.used, id_)


@kernel
def release(table: IdTable, at: int) -> None:
    """Delete the entry at a place, and shift the entries behind it back."""
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
    """Enter all entries of one table into another."""
    keys, new_keys, used = table.keys, into.keys, into.used
    for at in range(len(keys)):
        if keys[at, 0] != 0:
            place = claim_in(new_keys, used, keys[at, 0])
            new_keys[place, 1] = keys[at, 1]


@kernel
def all_ids(table: IdTable) -> Int64[np.ndarray, " held"]:
    """The ids of all entries, in no order."""
    keys = table.keys
    ids = np.empty(table.used[0], np.int64)
    found = 0
    for at in range(len(keys)):
        if keys[at, 0] != 0:
            ids[found] = keys[at, 0]
            found += 1
    return ids
