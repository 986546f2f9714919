import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from phoenix.index import VectorIndex

DIM = 3
ids = st.lists(st.integers(1, 12), max_size=8).map(lambda given: np.array(given, np.int64))
versions = st.sampled_from(["old", "new"])
whole_numbers = st.integers(-3, 3).map(float)  # sums of whole numbers are exact, in whatever order


def vectors(count: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float32, (count, DIM), elements=whole_numbers)


class IndexAgainstBruteForce(RuleBasedStateMachine):
    """Whatever happened to the index, it finds what sorting all that should be in it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.index = VectorIndex(DIM)
        self.expected: dict[str, dict[int, np.ndarray]] = {"old": {}, "new": {}}

    @rule(data=st.data(), ids=ids, version=versions)
    def upsert(self, data: st.DataObject, ids: np.ndarray, version: str) -> None:
        given = data.draw(vectors(len(ids)))
        self.index.upsert(ids, given, version)
        self.expected[version].update(zip(ids.tolist(), given, strict=True))

    @rule(ids=ids)
    def remove(self, ids: np.ndarray) -> None:
        self.index.remove(ids)
        for id_ in ids.tolist():
            for of_version in self.expected.values():
                of_version.pop(id_, None)

    @rule()
    def drop_old(self) -> None:
        self.index.drop_versions_except(["new"])
        self.expected["old"] = {}

    @rule(queries=vectors(2), k=st.integers(0, 15), version=versions)
    def search(self, queries: np.ndarray, k: int, version: str) -> None:
        found, scores = self.index.search(queries, k, version)
        assert found.shape == scores.shape == (2, k)
        for row, query in enumerate(queries):
            best = sorted(((float(v @ query), id_) for id_, v in self.expected[version].items()), reverse=True)[:k]
            missing = k - len(best)
            assert found[row].tolist() == [id_ for _, id_ in best] + [-1] * missing
            assert scores[row].tolist() == [score for score, _ in best] + [-np.inf] * missing

    @invariant()
    def counts_posts_once(self) -> None:
        assert len(self.index) == len({*self.expected["old"], *self.expected["new"]})


TestIndexAgainstBruteForce = IndexAgainstBruteForce.TestCase


@given(st.integers(1, 40), st.integers(0, 2**16))
def test_the_best_of_many_are_found(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stored, query = rng.normal(size=(3_000, 8)).astype(np.float32), rng.normal(size=(1, 8)).astype(np.float32)
    index = VectorIndex(8)
    index.upsert(np.arange(1, 3_001), stored, "v")  # more than fit at first
    index.remove(np.arange(1, 3_001, 2))
    left = np.arange(2, 3_001, 2)
    best = left[np.argsort(-(stored[left - 1] @ query[0]), kind="stable")[:k]]
    assert index.search(query, k, "v")[0][0].tolist() == best.tolist()


def test_an_unknown_version_finds_nothing_rather_than_another_versions_vectors() -> None:
    index = VectorIndex(DIM)
    index.upsert(np.array([1]), np.ones((1, DIM), np.float32), "old")
    found, scores = index.search(np.ones((1, DIM), np.float32), 2, "new")
    assert found.tolist() == [[-1, -1]]
    assert scores.tolist() == [[-np.inf, -np.inf]]


def test_vectors_of_a_wrong_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2\) for 1 ids; \(1, 3\) is wanted"):
        VectorIndex(DIM).upsert(np.array([1]), np.ones((1, 2), np.float32), "v")


def test_a_search_during_writes_finds_whole_states_only() -> None:
    index = VectorIndex(DIM)
    pair = np.array([1, 2])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            index.upsert(pair, np.ones((2, DIM), np.float32), "v")
            index.remove(pair)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        states = {tuple(index.search(np.ones((1, DIM), np.float32), 2, "v")[0][0].tolist()) for _ in range(500)}
    finally:
        stop.set()
        writer.join()
    assert states <= {(-1, -1), (2, 1)}
