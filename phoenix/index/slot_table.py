"""The slot of each post in an index, for bulk use by one writer: an `IdTable` whose first value is the slot plus one.

glossary of shapes: `n` given ids, `held` ids with a slot, `released` of them.
"""

import numpy as np
from jaxtyping import Int64

from thunder_ingest.kernels.compiled import kernel
from thunder_ingest.kernels.id_table import (
    FIRST,
    IdTable,
    all_ids,
    claim_in,
    find_indices,
    id_table,
    place_of,
    release,
    with_room,
)


class SlotTable:
    """Slots by id; an id is never 0, a slot is below 2³¹ - 1."""

    def __init__(self) -> None:
        self._table = id_table()

    def __len__(self) -> int:
        return int(self._table.used[0])

    @property
    def ids(self) -> Int64[np.ndarray, " held"]:
        """All ids, in no order."""
        return all_ids(self._table)

    def slots_of(self, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The slots of ids, -1 without one."""
        slots = np.empty(len(ids), np.int64)
        find_indices(self._table.keys, self._table.values, ids, slots)
        return slots

    def assign(self, ids: Int64[np.ndarray, " n"], slots: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Give each id a slot, in order, and return the slots they had; a repeated id had its earlier slot."""
        self._table = with_room(self._table, len(ids))
        before = np.empty(len(ids), np.int64)
        _assign(self._table, ids, slots, before)
        return before

    def release(self, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " released"]:
        """Remove ids, and return the slots of those that had one."""
        before = np.empty(len(ids), np.int64)
        _release(self._table, ids, before)
        return before[before >= 0]


@kernel
def _assign(
    table: IdTable,
    ids: Int64[np.ndarray, " n"],
    slots: Int64[np.ndarray, " n"],
    before: Int64[np.ndarray, " n"],
) -> None:
    keys, values, used = table.keys, table.values, table.used
    for i in range(len(ids)):
        at = claim_in(keys, used, ids[i])
        before[i] = values[at, FIRST] - 1
        values[at, FIRST] = slots[i] + 1


@kernel
def _release(table: IdTable, ids: Int64[np.ndarray, " n"], before: Int64[np.ndarray, " n"]) -> None:
    keys, values = table.keys, table.values
    for i in range(len(ids)):
        at = place_of(keys, ids[i])
        before[i] = values[at, FIRST] - 1 if at >= 0 else -1
        if at >= 0:
            release(table, at)
