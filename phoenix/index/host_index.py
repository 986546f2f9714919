"""The flat index of one model version in the memory of the host, scanned by all its cores.

A search reads a snapshot (multiversion concurrency control by copy-on-write): the chunks, and for each chunk the column
of shown rows. A writer never touches a row that a snapshot shows. A replaced vector goes to another row, and the next
snapshot shows that row instead. So a search needs no lock; it sees all of a batch or nothing of it. A row that is no
longer shown becomes free when no search holds an earlier snapshot (epoch-based reclamation).

glossary of shapes: `rows` of a chunk, `n` given posts or rows, `freed` and `m` of them, `count` rows to take, `dim`
components, `queries` of a batch, `top_k` results of a query.
"""

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Int64

from phoenix.index.int8_kernel import PANEL, Precision, empty_panels, read, tiles, write
from phoenix.index.masks import Mask, Masks, Traits
from phoenix.index.scan import Candidates, Chunk, Queries, finish, no_candidates, none_reached, scan
from phoenix.index.slot_table import SlotTable

CHUNK_ROWS: Final = 65_536
"""Rows per call of the scan: at least a tenth of a millisecond, so that the cost of the call is negligible."""
_SAMPLE_STEP: Final = 32
"""The sample for an estimate of the floor has every 32nd panel."""
_MIN_CHUNKS_TO_ESTIMATE: Final = 3


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One immutable state of the index. While a search holds it, no writer touches the rows that it shows."""

    chunks: tuple[Chunk, ...]
    shown: tuple[Bool[np.ndarray, " rows"], ...]
    rows: int
    """Rows that were ever written; a scan skips the rows behind them."""


class HostIndex:
    """Vectors by post id. One writer at a time; any number of concurrent searches.

    Args:
        dim: width of the vectors.
        precision: of the scanned vectors.
        exact: True to keep fp32 vectors beside it and re-score candidates. The result is exact, since the scan has an
            error bound for each score. False: the scores of the scan are final.
        chunk_rows: a multiple of 64.

    Attributes:
        snapshot: the current state, which the next search reads.

    """

    def __init__(
        self, dim: int, precision: Precision = "int8", *, exact: bool = True, chunk_rows: int = CHUNK_ROWS
    ) -> None:
        self._dim, self._precision, self._rescored = dim, precision, exact and precision != "float32"
        self._chunk_rows = chunk_rows
        self._slots = SlotTable()
        self.snapshot = Snapshot((), (), 0)
        self._free = np.zeros(0, np.int64)
        self._leaving: deque[tuple[weakref.ref[Snapshot], Int64[np.ndarray, " n"]]] = deque()

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def ids(self) -> Int64[np.ndarray, " n"]:
        """The ids of all posts, in no order."""
        return self._slots.ids

    def holds(self, ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """True for posts in the index."""
        return self._slots.slots_of(ids) >= 0

    def vectors(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        """The vectors of posts, in fp32 if kept, else as scanned; zeros for other ids."""
        slots = self._slots.slots_of(ids)
        there = np.flatnonzero(slots >= 0)
        vectors = np.zeros((len(ids), self._dim), np.float32)
        for number, rows, given in self._by_chunk(slots[there]):
            chunk = self.snapshot.chunks[number]
            vectors[there[given]] = chunk.vectors[rows] if len(chunk.vectors) else read(chunk.panels, rows)
        return vectors

    def upsert(self, ids: Int64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n dim"], traits: Traits) -> None:
        """Insert or replace posts; the last of a repeated id wins."""
        fresh = self._take(len(ids))
        chunks = self.snapshot.chunks + tuple(self._new_chunks(int(fresh.max(initial=-1)) + 1))
        for number, rows, given in self._by_chunk(fresh):
            _write(chunks[number], rows, ids[given], vectors[given], Traits(*(column[given] for column in traits)))
        before = self._slots.assign(ids, fresh)
        self._show(chunks, fresh, before[before >= 0])

    def remove(self, ids: Int64[np.ndarray, " n"]) -> None:
        """Remove posts; other ids are ignored."""
        self._show(self.snapshot.chunks, np.zeros(0, np.int64), self._slots.release(ids))

    def describe(self, ids: Int64[np.ndarray, " n"], traits: Traits) -> None:
        """Replace the traits of posts in the index."""
        slots = self._slots.slots_of(ids)
        there = np.flatnonzero(slots >= 0)
        for number, rows, given in self._by_chunk(slots[there]):
            for column, values in zip(self.snapshot.chunks[number].traits, traits, strict=True):
                column[rows] = values[there[given]]

    def warm_up(self, batches: Sequence[int], k: int) -> None:
        """Compile all kernels; the index stays unchanged."""
        blank = HostIndex(self._dim, self._precision, exact=self._rescored, chunk_rows=self._chunk_rows)
        blank.upsert(np.array([1]), np.zeros((1, self._dim), np.float32), Traits.unknown(1))
        for batch in batches:
            blank.search(np.zeros((batch, self._dim), np.float32), k, [Mask()] * batch)
        blank.remove(np.array([1]))

    def search(
        self, queries: Float32[np.ndarray, "queries dim"], k: int, masks: Sequence[Mask]
    ) -> tuple[Int64[np.ndarray, "queries top_k"], Float32[np.ndarray, "queries top_k"]]:
        """The k best posts of each query, like `VectorIndex.search`."""
        snapshot = self.snapshot
        ids, scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        results = min(k, snapshot.rows)
        if not results or not len(queries):
            return ids, scores
        batch = _batch_of(queries, masks)
        found = _scanned_above_estimate(snapshot, batch, results)
        if found is None:
            batch.floor[:] = -np.inf
            found = _scanned(snapshot, batch, results)
        _finish(found, scores, ids)
        return ids, scores

    def _take(self, count: int) -> Int64[np.ndarray, " count"]:
        """Rows that no search reads: free rows first, then new ones."""
        freed = [self._free]
        while self._leaving and self._leaving[0][0]() is None:
            freed.append(self._leaving.popleft()[1])
        self._free = np.concatenate(freed)
        again, self._free = self._free[:count], self._free[count:]
        first = self.snapshot.rows
        return np.concatenate([again, np.arange(first, first + count - len(again))])

    def _new_chunks(self, rows: int) -> Iterator[Chunk]:
        for _ in range(len(self.snapshot.chunks) * self._chunk_rows, rows, self._chunk_rows):
            # id and traits of a row are adjacent: a random access costs one cache line, not five
            id_, author, language, labels = np.zeros((self._chunk_rows, 4), np.int64).T
            yield Chunk(
                empty_panels(self._chunk_rows, self._dim, self._precision),
                np.zeros((self._chunk_rows if self._rescored else 0, self._dim), np.float32),
                id_,
                Traits(author, language, labels.view(np.uint64), np.zeros(self._chunk_rows, np.bool_)),
            )

    def _show(self, chunks: tuple[Chunk, ...], new: Int64[np.ndarray, " n"], gone: Int64[np.ndarray, " m"]) -> None:
        """Publish the next snapshot: with new rows, without removed ones; a row may be in both."""
        last = self.snapshot
        shown = [*last.shown, *(np.zeros(self._chunk_rows, np.bool_) for _ in chunks[len(last.shown) :])]
        for slots, value in ((new, True), (gone, False)):
            for number, rows, _ in self._by_chunk(slots):
                shown[number] = shown[number].copy()
                shown[number][rows] = value
        self.snapshot = Snapshot(chunks, tuple(shown), max(last.rows, int(new.max(initial=-1)) + 1))
        self._leaving.append((weakref.ref(last), gone))

    def _by_chunk(
        self, slots: Int64[np.ndarray, " n"]
    ) -> Iterator[tuple[int, Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]]:
        """For each chunk with slots: its index, the rows in it, and the positions of these rows in `slots`."""
        order = np.argsort(slots, kind="stable")
        numbers, begins = np.unique(slots[order] // self._chunk_rows, return_index=True)
        for number, given in zip(numbers.tolist(), np.split(order, begins)[1:], strict=True):
            yield number, slots[given] % self._chunk_rows, given


def _write(
    chunk: Chunk,
    rows: Int64[np.ndarray, " n"],
    ids: Int64[np.ndarray, " n"],
    vectors: Float32[np.ndarray, "n dim"],
    traits: Traits,
) -> None:
    write(chunk.panels, rows, vectors)
    if len(chunk.vectors):
        chunk.vectors[rows] = vectors
    chunk.ids[rows] = ids
    for column, values in zip(chunk.traits, traits, strict=True):
        column[rows] = values


def _batch_of(queries: Float32[np.ndarray, "queries dim"], masks: Sequence[Mask]) -> Queries:
    queries = np.ascontiguousarray(queries, np.float32)
    norms = np.nextafter(np.linalg.norm(queries.astype(np.float64), axis=1).astype(np.float32), np.float32(np.inf))
    floor = np.full(len(queries), -np.inf, np.float32)
    return Queries(queries, tiles(queries), norms, Masks.of(masks), floor)


def _scanned_above_estimate(snapshot: Snapshot, batch: Queries, k: int) -> Candidates | None:
    """The candidates above an estimate of the k-th best score; None if the estimate was too high, which is rare.

    The floor is low until k good rows are found, and until then the scan examines thousands of useless rows. The
    `k / _SAMPLE_STEP`-th best score of a sample estimates the final floor. The estimate is lower by five standard
    deviations of the number of the k best in a sample: twice the margin at which one search in a million would fail.
    """
    if len(snapshot.chunks) < _MIN_CHUNKS_TO_ESTIMATE:
        return None
    expected = k / _SAMPLE_STEP
    sample_size = int(expected + 5 * expected**0.5) + 5
    sample = _scanned(snapshot, batch, sample_size, _SAMPLE_STEP)
    best = np.full((len(batch.floor), sample_size), -np.inf, np.float32)
    _finish(sample, best, np.empty(best.shape, np.int64))
    estimate = best[:, -1]
    batch.floor[:] = estimate
    found = _scanned(snapshot, batch, k)
    too_few = (found.counts.sum(axis=0) < k) & (estimate > -np.inf)
    return None if too_few.any() else found


def _scanned(snapshot: Snapshot, batch: Queries, k: int, step: int = 1) -> Candidates:
    """The k best and other candidates of every `step`-th panel; one thread per core, at most one per chunk."""
    threads = min(len(snapshot.chunks), _cores())
    found = no_candidates(threads, len(batch.floor), k)
    numbers = iter(range(len(snapshot.chunks)))  # shared: each thread takes the next chunk when it has finished one

    def work(thread: int) -> None:
        own, reached = Candidates(*(part[thread] for part in found)), none_reached(len(batch.floor))
        for number in numbers:
            chunk, shown = snapshot.chunks[number], snapshot.shown[number]
            panels = -(-min(snapshot.rows - number * len(shown), len(shown)) // PANEL)
            scan(chunk, shown, panels, step, batch, k, own, reached)

    _on_all_threads(threads, work)
    return found


def _finish(
    found: Candidates, scores: Float32[np.ndarray, "queries top_k"], ids: Int64[np.ndarray, "queries top_k"]
) -> None:
    """Write the best of the candidates, in order."""
    threads = min(len(scores), _cores())
    _on_all_threads(threads, lambda thread: finish(found, thread, threads, scores, ids))


def _on_all_threads(threads: int, work: Callable[[int], None]) -> None:
    others = [_pool().submit(work, thread) for thread in range(1, threads)]
    work(0)
    for other in others:
        other.result()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    """The threads beside the calling one, shared by all searches."""
    return ThreadPoolExecutor(max(_cores() - 1, 1), "scan")
