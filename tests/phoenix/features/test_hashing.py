import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix.features.hashing import AUTHOR_SEED, POST_SEED, collisions, hash_rows

ids = st.lists(st.integers(1, 2**63 - 1), min_size=1, max_size=50)


@given(ids, st.integers(2, 2**31), st.integers(1, 4))
def test_every_id_gets_rows_inside_the_table_and_never_row_0(published: list[int], buckets: int, hashes: int) -> None:
    rows = hash_rows(np.array(published, np.int64), buckets, hashes)
    assert rows.dtype == np.int32
    assert rows.shape == (len(published), hashes)
    assert rows.min() >= 1
    assert rows.max() < buckets


def test_the_absent_id_gets_row_0() -> None:
    assert (hash_rows(np.zeros((3, 2), np.int64), 1_000) == 0).all()
    assert (hash_rows(np.zeros(3, np.uint32), 1_000, hashes=1) == 0).all()


@given(ids)
def test_the_rows_of_an_id_do_not_depend_on_other_ids(published: list[int]) -> None:
    together = hash_rows(np.array(published, np.int64), 1_000, seed=POST_SEED)
    alone = [hash_rows(np.array([one], np.int64), 1_000, seed=POST_SEED)[0] for one in published]
    assert (together == np.array(alone)).all()


def test_rows_are_those_of_trained_models() -> None:
    rows = hash_rows(np.array([1, 2, 2**63 - 1], np.int64), 20_000, seed=POST_SEED)
    assert rows.tolist() == [[18587, 17962], [7795, 18664], [5825, 14418]]


@pytest.mark.parametrize("step", [1, 2, 1_000, 2**22, 2**40, 2**41 + 2**20])
def test_ids_of_any_stride_spread_evenly(step: int) -> None:
    rows = hash_rows(np.arange(1, 100_001, dtype=np.int64) * step, 1_001, seed=AUTHOR_SEED)
    counts = np.stack([np.bincount(column, minlength=1_001)[1:] for column in rows.T])
    assert counts.min() > 50  # 100 expected, deviation 10
    assert counts.max() < 150


def test_two_ids_hardly_ever_share_all_their_rows() -> None:
    rows = hash_rows(np.arange(1, 20_001, dtype=np.int64), 20_000)
    assert len(np.unique(rows, axis=0)) > 19_990


def test_each_kind_of_id_has_its_own_rows() -> None:
    same = np.arange(1, 10_001, dtype=np.int64)
    assert (hash_rows(same, 1_000, seed=POST_SEED) == hash_rows(same, 1_000, seed=AUTHOR_SEED)).mean() < 0.01


@pytest.mark.parametrize("buckets", [0, 1, 2**31 + 1])
def test_a_table_of_impossible_size_is_refused(buckets: int) -> None:
    with pytest.raises(ValueError, match=r"2 to 2\^31 are possible"):
        hash_rows(np.array([1]), buckets)


@given(st.lists(st.integers(0, 2**63 - 1), max_size=30), st.integers(2, 60), st.integers(1, 3))
def test_collisions_are_ids_that_share_a_row_with_another(ids: list[int], buckets: int, hashes: int) -> None:
    distinct = sorted({*ids} - {0})
    rows = [{*hash_rows(np.array([each]), buckets, hashes)[0].tolist()} for each in distinct]
    shared = [[any(row in its for its in rows if its is not mine) for row in mine] for mine in rows]
    expected = [np.mean([any(each) for each in shared]), np.mean([all(each) for each in shared])] if rows else [0, 0]
    assert collisions(np.array(ids + ids, np.int64), buckets, hashes) == pytest.approx(tuple(expected))
