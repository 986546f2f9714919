"""Which slot each post has: a compiled hash table from ids to slots, for bulk use by one writer."""

from typing import Final

import numpy as np
from jaxtyping import Int64

from thunder_ingest.kernels.compiled import inlined, kernel

_FIRST_PLACES: Final = 2_048
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_HALF: Final = np.uint64(32)


class SlotTable:
    """Slots by id, open addressing with linear probing; 16 bytes a place, at most five of eight places taken."""

    def __init__(self) -> None:
        self._ids, self._slots = _places(_FIRST_PLACES)
        self._taken = 0

    def __len__(self) -> int:
        return self._taken

    @property
    def ids(self) -> Int64[np.ndarray, " n"]:
        """All ids, in no order."""
        return self._ids[self._slots >= 0]

    def slots_of(self, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The slots of ids, -1 for those that have none."""
        slots = np.empty(len(ids), np.int64)
        _look_up(self._ids, self._slots, ids, slots)
        return slots

    def assign(self, ids: Int64[np.ndarray, " n"], slots: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Give each id a slot, in order, and return the slots they had: of an id named twice, the first one's too."""
        self._make_room(len(ids))
        before = np.empty(len(ids), np.int64)
        self._taken += _assign(self._ids, self._slots, ids, slots, before)
        return before

    def release(self, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
        """Forget ids, and return the slots of those that had one."""
        before = np.empty(len(ids), np.int64)
        self._taken -= _release(self._ids, self._slots, ids, before)
        return before[before >= 0]

    def _make_room(self, more: int) -> None:
        needed, places = self._taken + more, len(self._ids)
        while needed > places * 5 // 8:
            places *= 2
        if places > len(self._ids):
            held = self._slots >= 0
            ids, slots = self._ids[held], self._slots[held]
            self._ids, self._slots = _places(places)
            _assign(self._ids, self._slots, ids, slots, np.empty(len(ids), np.int64))


def _places(count: int) -> tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]:
    return np.zeros(count, np.int64), np.full(count, -1, np.int64)


@inlined
def _home(id_: int, places: int) -> int:
    mixed = np.uint64(id_)
    mixed = (mixed ^ (mixed >> _HALF)) * _MIX
    return int(np.int64((mixed ^ (mixed >> _HALF)) & np.uint64(places - 1)))


@inlined
def _place_of(ids: Int64[np.ndarray, " p"], slots: Int64[np.ndarray, " p"], id_: int) -> int:
    """Where an id is, or the free place where it would be."""
    at = _home(id_, len(ids))
    while slots[at] >= 0 and ids[at] != id_:
        at = (at + 1) & (len(ids) - 1)
    return at


@kernel
def _look_up(
    ids: Int64[np.ndarray, " p"],
    slots: Int64[np.ndarray, " p"],
    wanted: Int64[np.ndarray, " n"],
    found: Int64[np.ndarray, " n"],
) -> None:
    for number in range(len(wanted)):
        found[number] = slots[_place_of(ids, slots, wanted[number])]


@kernel
def _assign(
    ids: Int64[np.ndarray, " p"],
    slots: Int64[np.ndarray, " p"],
    given: Int64[np.ndarray, " n"],
    given_slots: Int64[np.ndarray, " n"],
    before: Int64[np.ndarray, " n"],
) -> int:
    """Returns how many ids are new."""
    new = 0
    for number in range(len(given)):
        at = _place_of(ids, slots, given[number])
        before[number] = slots[at]
        new += slots[at] < 0
        ids[at], slots[at] = given[number], given_slots[number]
    return new


@kernel
def _release(
    ids: Int64[np.ndarray, " p"],
    slots: Int64[np.ndarray, " p"],
    given: Int64[np.ndarray, " n"],
    before: Int64[np.ndarray, " n"],
) -> int:
    """Returns how many ids were there. Those behind a place that falls free close up, so that searches end there."""
    gone, mask = 0, len(ids) - 1
    for number in range(len(given)):
        gap = _place_of(ids, slots, given[number])
        before[number] = slots[gap]
        if slots[gap] < 0:
            continue
        gone += 1
        slots[gap] = -1
        look = (gap + 1) & mask
        while slots[look] >= 0:
            if (look - _home(ids[look], len(ids))) & mask >= (look - gap) & mask:
                ids[gap], slots[gap] = ids[look], slots[look]
                slots[look] = -1
                gap = look
            look = (look + 1) & mask
    return gone
