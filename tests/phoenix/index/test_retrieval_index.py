import threading
from collections.abc import Callable
from typing import Any, cast, get_args

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from phoenix.index.device_index import DeviceIndex
from phoenix.index.host_index import HostIndex
from phoenix.index.int8_kernel import PANEL, TILE, Precision, empty_panels, lowest, products, reaching, tiles, write
from phoenix.index.retrieval_index import FlatIndex, Mask, Traits, VectorIndex
from phoenix.index.scan import finish, scan

DIM = 3
IDS, AUTHORS, LANGUAGES, LABELS = range(1, 13), range(1, 4), range(3), 3
FLAT_INDEXES: dict[str, Callable[[int], FlatIndex]] = {
    "int8 on the host": lambda dim: HostIndex(dim, "int8"),
    "float16 on the host": lambda dim: HostIndex(dim, "float16"),
    "float32 on the host": lambda dim: HostIndex(dim, "float32"),
    "on a device": lambda dim: DeviceIndex(dim, chunk_rows=8),
}
ids = st.lists(st.sampled_from(IDS), max_size=8).map(lambda given: np.array(given, np.int64))
WIDTHS = {"old": DIM, "new": DIM + 1}
versions = st.sampled_from([*WIDTHS])
whole_numbers = st.integers(-3, 3).map(float)  # sums of whole numbers are exact, in any order


def some_of(values: range) -> st.SearchStrategy[np.ndarray | None]:
    return st.none() | st.lists(st.sampled_from(values), max_size=3).map(np.array)


masks = st.builds(
    Mask,
    languages=some_of(LANGUAGES),
    authors=some_of(AUTHORS),
    without_authors=some_of(AUTHORS),
    without_posts=some_of(IDS),
    without_labels=st.integers(0, LABELS),
    video=st.booleans(),
)


def vectors(count: int, dim: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float32, (count, dim), elements=whole_numbers)


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
    """Random operations on an index and on a dictionary; a sort of the dictionary gives the expected results."""

    def __init__(self, flat_index: Callable[[int], FlatIndex]) -> None:
        super().__init__()
        self.index = VectorIndex(flat_index)
        self.expected: dict[str, dict[int, tuple[np.ndarray, tuple[int, int, int, bool]]]] = {"old": {}, "new": {}}
        self.known = set[str]()

    @rule(data=st.data(), ids=ids, version=versions)
    def upsert(self, data: st.DataObject, ids: np.ndarray, version: str) -> None:
        given, described = data.draw(vectors(len(ids), WIDTHS[version])), data.draw(traits(len(ids)))
        self.index.upsert(ids, given, version, described)
        self.known.add(version)
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

    @rule(ids=ids, version=versions)
    def remove_from_one(self, ids: np.ndarray, version: str) -> None:
        self.index.remove(ids, version)
        for id_ in ids.tolist():
            self.expected[version].pop(id_, None)

    @rule(version=versions)
    def forget(self, version: str) -> None:
        self.index.forget(version)
        self.expected[version].clear()
        self.known.discard(version)

    @rule(version=versions, other=versions, some=ids.map(np.unique))
    def lacking(self, version: str, other: str, some: np.ndarray) -> None:
        expected = self.expected[other].keys() - self.expected[version].keys()
        assert sorted(self.index.lacking(version, other).tolist()) == sorted(expected)
        assert self.index.lacking(version, other, some).tolist() == sorted(expected & {*some.tolist()})

    @rule(data=st.data(), k=st.integers(0, 15), version=versions, asked=st.none() | st.tuples(masks, masks))
    def search(self, data: st.DataObject, k: int, version: str, asked: tuple[Mask, Mask] | None) -> None:
        queries = data.draw(vectors(2, WIDTHS[version]))
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

    @rule(ids=ids, version=versions)
    def vectors_of(self, ids: np.ndarray, version: str) -> None:
        nothing = np.zeros(WIDTHS[version] if version in self.known else 0)
        expected = [self.expected[version].get(id_, (nothing,))[0].tolist() for id_ in ids.tolist()]
        assert self.index.vectors(ids, version).tolist() == expected

    @invariant()
    def counts_posts_once(self) -> None:
        assert len(self.index) == len({*self.expected["old"], *self.expected["new"]})


@pytest.mark.parametrize("flat_index", FLAT_INDEXES.values(), ids=FLAT_INDEXES)
def test_any_sequence_of_writes_and_searches_agrees_with_brute_force(flat_index: Callable[[int], FlatIndex]) -> None:
    class Machine(IndexAgainstBruteForce):
        def __init__(self) -> None:
            super().__init__(flat_index)

    run_state_machine_as_test(Machine, settings=settings(max_examples=40, stateful_step_count=25, deadline=None))


SIZED: dict[str, Callable[[int], FlatIndex]] = {
    "one chunk": HostIndex,
    "guesses that are often too high": lambda dim: HostIndex(dim, chunk_rows=64),
    "guesses": lambda dim: HostIndex(dim, chunk_rows=2_048),
    "approximations that are rescored": lambda dim: HostIndex(dim, "float16", chunk_rows=2_048),
    "fp32 alone": lambda dim: HostIndex(dim, "float32", chunk_rows=2_048),
    "a device": lambda dim: DeviceIndex(dim, chunk_rows=8_192),
}


@pytest.mark.parametrize("flat_index", SIZED.values(), ids=SIZED)
@settings(max_examples=10, deadline=None)
@given(k=st.sampled_from([1, 10, 300]), seed=st.integers(0, 2**16), is_sorted=st.booleans())
def test_the_best_of_many_are_found(flat_index: Callable[[int], FlatIndex], k: int, seed: int, is_sorted: bool) -> None:
    rng = np.random.default_rng(seed)
    stored, query = rng.normal(size=(20_000, 8)).astype(np.float32), rng.normal(size=(1, 8)).astype(np.float32)
    if is_sorted:
        stored = stored[np.argsort(stored @ query[0])]  # each row better than all before
    index = VectorIndex(flat_index)
    index.upsert(np.arange(1, 20_001), stored, "v")
    index.remove(np.arange(1, 20_001, 2))
    left = np.arange(2, 20_001, 2)
    found = index.search(query, k, "v")[0][0]
    assert len(np.unique(found)) == k
    assert np.isin(found, left).all()
    true = stored.astype(np.float64) @ query[0]
    # products that are equal in float32 may come in either order; of sums in float32, eight roundings
    norms = np.linalg.norm(stored.astype(np.float64), axis=1) * np.linalg.norm(query.astype(np.float64))
    rounding = 8 * np.finfo(np.float32).eps * norms[found - 1]
    assert (np.abs(true[found - 1] - -np.sort(-true[left - 1])[:k]) <= rounding).all()


@pytest.mark.parametrize("precision", ["int8", "float16"])
@given(data=st.data())
def test_the_error_of_a_product_is_within_its_bound(precision: Precision, data: st.DataObject) -> None:
    elements = st.floats(-1e3, 1e3, width=32).map(lambda value: value if abs(value) > 1e-15 else 0.0)
    vectors_ = data.draw(arrays(np.float32, (PANEL, 5), elements=elements))
    queries = data.draw(arrays(np.float32, (TILE, 5), elements=elements))
    panels, found = empty_panels(PANEL, 5, precision), np.empty((TILE, PANEL), np.float32)
    write(panels, np.arange(PANEL), vectors_)
    scanned(panels.stored, tiles(queries), found)
    true = queries.astype(np.float64) @ vectors_.astype(np.float64).T
    allowed = panels.error[0] * np.linalg.norm(queries.astype(np.float64), axis=1)[:, None]
    assert (abs(found * panels.scale[0] - true) <= allowed).all()


@numba.njit
def scanned(stored: np.ndarray, of_queries: np.ndarray, found: np.ndarray) -> None:
    products(stored, 0, 1, of_queries, 0, found)


quarters = st.integers(-8, 8).map(lambda value: value / 4)  # sums and products of these are exact


@given(
    found=arrays(np.float32, (TILE, PANEL), elements=quarters),
    scale=arrays(np.float32, (2, PANEL), elements=quarters),
    error=arrays(np.float32, (2, PANEL), elements=quarters),
    place=st.integers(0, TILE - 1),
    panel=st.integers(0, 1),
    norm=quarters,
    threshold=quarters | st.just(-np.inf),
)
def test_each_row_within_its_error_of_the_floor_is_collected_once(
    found: np.ndarray,
    scale: np.ndarray,
    error: np.ndarray,
    place: int,
    panel: int,
    norm: float,
    threshold: float,
) -> None:
    most = found[place] * scale[panel] + error[panel] * np.float32(norm)
    collected = lanes(found, place, scale, error, panel, np.float32(norm), np.float32(threshold))
    assert collected == np.flatnonzero(most >= threshold).tolist()


@numba.njit
def lanes(
    found: np.ndarray, place: int, scale: np.ndarray, error: np.ndarray, panel: int, norm: float, threshold: float
) -> list[int]:
    collected = [lane for lane in range(0)]  # an empty list with a known type for the compiler  # noqa: C416
    bits = reaching(found, place, scale, error, panel, norm, threshold)
    while bits:
        collected.append(lowest(bits))
        bits &= bits - np.uint64(1)
    return collected


def test_the_same_compiled_code_serves_every_number_of_posts_queries_and_results() -> None:
    for posts in (1, 100, 1_000):
        for precision in get_args(Precision):
            flat_index = HostIndex(DIM, precision, chunk_rows=64)
            flat_index.upsert(np.arange(1, posts + 1), np.ones((posts, DIM), np.float32), Traits.unknown(posts))
            for batch in (1, 4, 5):
                for k in (1, 10, 300):
                    flat_index.search(np.ones((batch, DIM), np.float32), k, [Mask()] * batch)
    assert [len(cast(Any, kernel).signatures) for kernel in (scan, finish)] == [len(get_args(Precision)), 1]


def test_an_unknown_version_finds_nothing_rather_than_another_versions_vectors() -> None:
    index = VectorIndex()
    index.upsert(np.array([1]), np.ones((1, DIM), np.float32), "old")
    found, scores = index.search(np.ones((1, DIM), np.float32), 2, "new")
    assert found.tolist() == [[-1, -1]]
    assert scores.tolist() == [[-np.inf, -np.inf]]


def test_vectors_of_another_width_in_a_version_are_refused() -> None:
    index = VectorIndex()
    index.upsert(np.array([1]), np.ones((1, 2), np.float32), "old")
    index.upsert(np.array([1]), np.ones((1, 3), np.float32), "v")
    with pytest.raises(ValueError, match=r"shape \(1, 2\) for 1 ids; expected \(1, 3\)"):
        index.upsert(np.array([1]), np.ones((1, 2), np.float32), "v")


@pytest.mark.parametrize("component", [np.nan, np.inf])
def test_a_vector_that_is_no_number_is_refused(component: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        VectorIndex().upsert(np.array([1]), np.full((1, DIM), component, np.float32), "v")


def test_id_0_is_refused() -> None:
    with pytest.raises(ValueError, match="id 0 is no post"):
        VectorIndex().upsert(np.array([1, 0]), np.ones((2, DIM), np.float32), "v")


@pytest.mark.parametrize("flat_index", FLAT_INDEXES.values(), ids=FLAT_INDEXES)
def test_a_search_during_writes_finds_whole_states_only(flat_index: Callable[[int], FlatIndex]) -> None:
    index = VectorIndex(flat_index)
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


@pytest.mark.parametrize("flat_index", FLAT_INDEXES.values(), ids=FLAT_INDEXES)
def test_a_search_beside_a_writer_sees_whole_batches_of_whole_vectors(
    flat_index: Callable[[int], FlatIndex],
) -> None:
    posts, stop = np.arange(1, 65), threading.Event()
    index = VectorIndex(flat_index)

    def publish(generation: int) -> None:
        of_all = np.full(len(posts), generation)
        index.upsert(posts, np.stack([posts, of_all, posts * of_all], axis=1).astype(np.float32), "v")

    def write_on() -> None:
        generation = 1
        while not stop.is_set():
            generation = generation % 99 + 1
            publish(generation)

    publish(1)
    writer = threading.Thread(target=write_on)
    writer.start()
    generations = set()
    try:
        for _ in range(150):
            ids, scores = index.search(np.eye(DIM, dtype=np.float32), len(posts), "v")
            components = np.zeros((DIM, len(posts)), np.float32)
            for component, (of, found) in enumerate(zip(ids, scores, strict=True)):
                components[component, of - 1] = found
            assert components[0].tolist() == posts.tolist()
            (generation,) = {*components[1].tolist()}  # all of a batch is seen, or nothing of it
            assert components[2].tolist() == (posts * generation).tolist()
            generations.add(generation)
    finally:
        stop.set()
        writer.join()
    assert len(generations) > 1


def test_a_row_is_reused_only_after_all_searches_that_can_read_it() -> None:
    flat_index, one, nothing = HostIndex(DIM), np.array([1]), Traits.unknown(1)
    flat_index.upsert(one, np.full((1, DIM), 1, np.float32), nothing)
    seen = flat_index.snapshot
    for value in range(2, 6):
        flat_index.upsert(one, np.full((1, DIM), value, np.float32), nothing)
    assert seen.chunks[0].vectors[seen.shown[0]].tolist() == [[1, 1, 1]]
    assert flat_index.snapshot.rows == 5
    del seen
    for value in range(6, 20):
        flat_index.upsert(one, np.full((1, DIM), value, np.float32), nothing)
    assert flat_index.snapshot.rows == 5


@pytest.mark.parametrize("precision", ["int8", "float16"])
def test_a_vector_that_is_stored_at_less_precision_is_read_as_it_is_scanned(precision: Precision) -> None:
    flat_index = HostIndex(DIM, precision, exact=False, chunk_rows=64)
    vectors_ = np.random.default_rng(7).normal(size=(200, DIM)).astype(np.float32)
    flat_index.upsert(np.arange(1, 201), vectors_, Traits.unknown(200))
    read = flat_index.vectors(np.array([404, *range(200, 0, -1)]))
    assert read[0].tolist() == [0] * DIM
    assert read[:0:-1] == pytest.approx(vectors_, abs=0.02)
    assert abs(read[:0:-1] - vectors_).max() > 0


def test_more_vectors_than_a_device_reads_at_once_come_back_in_the_order_asked_for() -> None:
    flat_index = DeviceIndex(DIM, chunk_rows=256)
    vectors_ = np.random.default_rng(7).normal(size=(600, DIM)).astype(np.float32)
    flat_index.upsert(np.arange(1, 601), vectors_, Traits.unknown(600))
    asked = np.random.default_rng(8).permutation(600)
    assert flat_index.vectors(asked + 1).tolist() == vectors_[asked].tolist()


def test_a_bulk_of_posts_may_name_one_twice_and_be_spread_over_chunks() -> None:
    flat_index = HostIndex(DIM, chunk_rows=64)
    ids = np.concatenate([np.arange(1, 1_001), np.arange(1, 501)])
    flat_index.upsert(ids, np.repeat(np.arange(1_500, dtype=np.float32), DIM).reshape(-1, DIM), Traits.unknown(1_500))
    found, scores = flat_index.search(np.eye(1, DIM, dtype=np.float32), 1_001, [Mask()])
    assert len(flat_index) == 1_000
    assert found[0].tolist() == [*range(500, 0, -1), *range(1_000, 500, -1), -1]
    assert scores[0, :-1].tolist() == [*range(1_499, 999, -1), *range(999, 499, -1)]


def test_an_index_reports_its_posts_and_counts_by_version() -> None:
    index = VectorIndex()
    index.upsert(np.array([1, 2]), np.ones((2, DIM), np.float32), "old")
    index.upsert(np.array([2, 3]), np.ones((2, DIM), np.float32), "new")
    assert index.holds(np.array([4, 3, 2, 1])).tolist() == [False, True, True, True]
    assert [index.count(version) for version in ("old", "new", "unknown")] == [2, 2, 0]
    assert VectorIndex().holds(np.array([1])).tolist() == [False]


@pytest.mark.parametrize("flat_index", FLAT_INDEXES.values(), ids=FLAT_INDEXES)
def test_warming_up_leaves_nothing_in_the_index(flat_index: Callable[[int], FlatIndex]) -> None:
    index = VectorIndex(flat_index)
    index.warm_up(DIM, (1, 4), 10)
    assert len(index) == 0
    assert index.search(np.ones((1, DIM), np.float32), 1, "v")[0].tolist() == [[-1]]
