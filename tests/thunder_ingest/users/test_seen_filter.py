import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thunder_ingest.users.seen_filter import FilterSize, SeenFilter

SMALL = FilterSize(posts=8, generations=3, error=1e-6)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def filled(count: int, size: FilterSize, at_once: int) -> SeenFilter:
    """The posts 1 … count, added in order."""
    made = SeenFilter()
    for first in range(1, count + 1, at_once):
        made = made.with_posts(np.arange(first, min(first + at_once, count + 1)), size)
    return made


def test_an_empty_filter_holds_nothing() -> None:
    assert SeenFilter().holds(ids(1, 2)).tolist() == [False, False]
    assert len(SeenFilter()) == len(SeenFilter().to_bytes()) == 0


@given(st.lists(st.integers(1, 2**63 - 1), max_size=30, unique=True), st.integers(1, 7))
def test_a_filter_within_its_capacity_never_misses_a_post(posts: list[int], at_once: int) -> None:
    made = SeenFilter()
    size = FilterSize(posts=8, generations=4, error=1e-6)
    for first in range(0, len(posts), at_once):
        made = SeenFilter.from_bytes(made.with_posts(ids(*posts[first : first + at_once]), size).to_bytes())
    assert made.holds(ids(*posts)).all()
    assert len(made) <= len(posts)


def test_no_id_is_held_by_no_filter() -> None:
    crowded = filled(8, FilterSize(posts=8, generations=1, error=0.999), 8)
    assert not crowded.holds(ids(0))[0]


def test_of_more_than_fit_the_oldest_generation_is_forgotten() -> None:
    made = filled(100, SMALL, 5)
    assert len(made.to_bytes()) == len(filled(24, SMALL, 24).to_bytes())
    newest = np.arange(100 - 2 * SMALL.posts + 1, 101)
    assert made.holds(newest).all()
    assert not made.holds(np.arange(1, 70)).any()


def test_a_replay_forgets_nothing() -> None:
    before = filled(20, SMALL, 5)
    after = before.with_posts(np.arange(9, 21), SMALL)
    assert after.to_bytes() == before.to_bytes()


def test_a_post_of_the_oldest_generation_moves_to_the_newest_when_it_is_added_again() -> None:
    again = filled(24, SMALL, 8).with_posts(ids(1), SMALL)
    assert again.with_posts(np.arange(100, 108), SMALL).holds(ids(1))[0]


def test_full_filters_of_the_default_size_take_as_many_strangers_for_seen_as_is_said() -> None:
    size = FilterSize()
    full = filled(size.posts * size.generations, size, 1_000)
    strangers = np.arange(10**9, 10**9 + 200_000)
    share = full.holds(strangers).mean()
    assert 0.5 * size.error < share < 1.2 * size.error
    assert len(full.to_bytes()) < 52_000
