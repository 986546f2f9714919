import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from feed_worker.candidates.id_sets import contains, first_of_each

IDS = st.lists(st.integers(0, 12), max_size=30)


@given(IDS, IDS)
def test_contains_agrees_with_python_sets(members: list[int], asked: list[int]) -> None:
    known = {member for member in members if member}
    found = contains(np.array(sorted(known), np.int64), np.array(asked, np.int64))
    assert found.tolist() == [each in known for each in asked]


def test_id_zero_is_in_no_set() -> None:
    assert not contains(np.array([0, 1], np.int64), np.array([0], np.int64)).any()


@given(IDS)
def test_first_of_each_marks_first_occurrences(keys: list[int]) -> None:
    marked = first_of_each(np.array(keys, np.int64))
    assert marked.tolist() == [key not in keys[:place] for place, key in enumerate(keys)]
