import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from phoenix.index import Mask, Slab, Traits, VectorIndex
from phoenix.slabs.device import DeviceSlab
from phoenix.slabs.host import HostSlab

DIM = 3
IDS, AUTHORS, LANGUAGES, LABELS = range(1, 13), range(1, 4), range(3), 3
SLABS: dict[str, Callable[[int], Slab]] = {
    "int8 on the host": lambda dim: HostSlab(dim, "int8"),
    "float16 on the host": lambda dim: HostSlab(dim, "float16"),
    "float32 on the host": lambda dim: HostSlab(dim, "float32"),
    "on a device": lambda dim: DeviceSlab(dim, chunk_rows=8),
}
ids = st.lists(st.sampled_from(IDS), max_size=8).map(lambda given: np.array(given, np.int64))
versions = st.sampled_from(["old", "new"])
whole_numbers = st.integers(-3, 3).map(float)  # sums of whole numbers are exact, in whatever order
some_of = lambda values: st.none() | st.lists(st.sampled_from(values), max_size=3).map(np.array)  # noqa: E731
masks = st.builds(
    Mask,
    languages=some_of(LANGUAGES),
    authors=some_of(AUTHORS),
    without_authors=some_of(AUTHORS),
    without_posts=some_of(IDS),
    without_labels=st.integers(0, LABELS),
    video=st.booleans(),
)


def vectors(count: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float32, (count, DIM), elements=whole_numbers)


def traits(count: int) -> st.SearchStrategy[Traits]:
    return st.builds(
        Traits,
        author=arrays(np.int64, count, elements=st.sampled_from(AUTHORS)),
        language=arrays(np.int64, count, elements=st.sampled_from(LANGUAGES)),
        labels=arrays(np.uint64, count, elements=st.integers(0, LABELS)),
        video=arrays(np.bool_, count),
    )


def lets_through(mask: Mask, id_: int, author: int, language: int, labels: int, video: bool) -> bool:
    return (
        (mask.languages is None or language in mask.languages)
        and (mask.authors is None or author in mask.authors)
        and (mask.without_authors is None or author not in mask.without_authors)
        and (mask.without_posts is None or id_ not in mask.without_posts)
        and not labels & mask.without_labels
        and (mask.video or not video)
    )


class IndexAgainstBruteForce(RuleBasedStateMachine):
    """Whatever happened to the index, it finds what sorting all that should be in it finds."""

    slab: Callable[[int], Slab]

    def __init__(self) -> None:
        super().__init__()
        self.index = VectorIndex(DIM, type(self).slab)
        self.expected: dict[str, dict[int, tuple[np.ndarray, tuple[int, int, int, bool]]]] = {"old": {}, "new": {}}

    @rule(data=st.data(), ids=ids, version=versions)
    def upsert(self, data: st.DataObject, ids: np.ndarray, version: str) -> None:
        given, described = data.draw(vectors(len(ids))), data.draw(traits(len(ids)))
        self.index.upsert(ids, given, version, described)
        rows = zip(*(column.tolist() for column in described), strict=True)
        self.expected[version].update(zip(ids.tolist(), zip(given, rows, strict=True), strict=True))

    @rule(data=st.data(), ids=ids)
    def describe(self, data: st.DataObject, ids: np.ndarray) -> None:
        described = data.draw(traits(len(ids)))
        self.index.describe(ids, described)
        for of_version in self.expected.values():
            for id_, row in zip(
                ids.tolist(), zip(*(column.tolist() for column in described), strict=True), strict=True
            ):
                if id_ in of_version:
                    of_version[id_] = (of_version[id_][0], row)

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

    @rule(queries=vectors(2), k=st.integers(0, 15), version=versions, asked=st.none() | st.tuples(masks, masks))
    def search(self, queries: np.ndarray, k: int, version: str, asked: tuple[Mask, Mask] | None) -> None:
        found, scores = self.index.search(queries, k, version, asked)
        assert found.shape == scores.shape == (2, k)
        for row, (query, mask) in enumerate(zip(queries, asked or (Mask(), Mask()), strict=True)):
            may_be_found = {
                i: v for i, (v, of_post) in self.expected[version].items() if lets_through(mask, i, *of_post)
            }
            best = sorted(((float(v @ query), id_) for id_, v in may_be_found.items()), reverse=True)[:k]
            missing = k - len(best)
            assert found[row].tolist() == [id_ for _, id_ in best] + [-1] * missing
            assert scores[row].tolist() == [score for score, _ in best] + [-np.inf] * missing

    @invariant()
    def counts_posts_once(self) -> None:
        assert len(self.index) == len({*self.expected["old"], *self.expected["new"]})


@pytest.mark.parametrize("slab", SLABS.values(), ids=SLABS)
def test_any_interleaving_finds_what_brute_force_finds(slab: Callable[[int], Slab]) -> None:
    machine = type("Machine", (IndexAgainstBruteForce,), {"slab": staticmethod(slab)})
    run = machine.TestCase
    run.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
    run().runTest()


@pytest.mark.parametrize("slab", SLABS.values(), ids=SLABS)
@settings(max_examples=10, deadline=None)
@given(k=st.integers(1, 40), seed=st.integers(0, 2**16))
def test_the_best_of_many_are_found(slab: Callable[[int], Slab], k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stored, query = rng.normal(size=(3_000, 8)).astype(np.float32), rng.normal(size=(1, 8)).astype(np.float32)
    index = VectorIndex(8, (lambda dim: DeviceSlab(dim, chunk_rows=1_024)) if slab is SLABS["on a device"] else slab)
    index.upsert(np.arange(1, 3_001), stored, "v")
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


@pytest.mark.parametrize("component", [np.nan, np.inf])
def test_a_vector_that_is_no_number_is_refused(component: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        VectorIndex(DIM).upsert(np.array([1]), np.full((1, DIM), component, np.float32), "v")


@pytest.mark.parametrize("slab", SLABS.values(), ids=SLABS)
def test_a_search_during_writes_finds_whole_states_only(slab: Callable[[int], Slab]) -> None:
    index = VectorIndex(DIM, slab)
    pair = np.array([1, 2])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            index.upsert(pair, np.ones((2, DIM), np.float32), "v")
            index.remove(pair)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        states = {tuple(index.search(np.ones((1, DIM), np.float32), 2, "v")[0][0].tolist()) for _ in range(200)}
    finally:
        stop.set()
        writer.join()
    assert states <= {(-1, -1), (2, 1)}
