"""Tests of the id table with few ids, most of which share a place at which their search begins."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix.index.slot_table import SlotTable
from thunder_ingest.kernels.compiled import kernel
from thunder_ingest.kernels.id_table import home

PLACES = 2048


@kernel
def first_place(id_: int) -> int:
    return home(id_, PLACES)


CROWDED = [id_ for id_ in range(1, 200_000) if first_place(id_) in (PLACES - 2, PLACES - 1, 0)][:40]
"""Ids whose searches begin at the last two places of a small table or at its first."""

some_ids = st.lists(st.sampled_from(CROWDED) | st.integers(1, 2**63 - 1), max_size=30)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), some_ids), max_size=12))
def test_any_sequence_of_assignments_and_releases_agrees_with_a_dictionary(
    steps: list[tuple[bool, list[int]]],
) -> None:
    table, expected = SlotTable(), dict[int, int]()
    seen = {0, 7, *CROWDED}
    for number, (is_assigned, ids) in enumerate(steps):
        seen.update(ids)
        if is_assigned:
            before = []
            slots = [100 * number + i for i in range(len(ids))]
            for id_, slot in zip(ids, slots, strict=True):
                before.append(expected.get(id_, -1))
                expected[id_] = slot
            assert table.assign(np.array(ids, np.int64), np.array(slots, np.int64)).tolist() == before
        else:
            released = [expected.pop(id_) for id_ in ids if id_ in expected]
            assert table.release(np.array(ids, np.int64)).tolist() == released
        assert len(table) == len(expected)
        assert sorted(table.ids.tolist()) == sorted(expected)
        wanted = sorted(seen)
        slots_found = table.slots_of(np.array(wanted, np.int64)).tolist()
        assert slots_found == [expected.get(id_, -1) for id_ in wanted]


def test_a_table_that_grows_keeps_all_entries() -> None:
    table, ids = SlotTable(), np.arange(1, 10_001)
    for begin in range(0, 10_000, 1_000):
        part = slice(begin, begin + 1_000)
        table.assign(ids[part], ids[part] + 5)
    assert table.slots_of(ids).tolist() == (ids + 5).tolist()
