"""The vectors of one model version in the memory of the host, scanned by its cores.

What a search sees is a snapshot: the chunks there are, and for each a column that says which rows are shown. A writer
never touches a row that some snapshot shows: a replaced vector goes to another row, and the next snapshot shows that
one instead. So a search needs no lock, and sees each post's old vector or its new one, all of a batch or nothing of it.
A row that is shown no more is free once the last search that could see it has let go of its snapshot.
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
"""Rows that are scanned by one call: a tenth of a millisecond or more, so that the call itself hardly counts."""
_SAMPLED: Final = 32
"""One panel of so many is in the sample that a guess is made from."""
_WORTH_GUESSING: Final = 3


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One state of the index. Whoever holds it keeps the rows that it shows from being written."""

    chunks: tuple[Chunk, ...]
    shown: tuple[Bool[np.ndarray, " rows"], ...]
    rows: int
    """Rows that have ever been written; those behind them need no look."""


class HostSlab:
    """Vectors by post id. One writer at a time; any number of searches at any time.

    Args:
        dim: width of the vectors.
        precision: what is scanned.
        exact: whether fp32 stands beside it, so that what the scan finds has its true score: exact, since the scan
            knows how far each of its own scores may be off. Without it those scores are final.
        chunk_rows: a multiple of 64.

    Attributes:
        snapshot: what a search sees, as of now.

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
        """Which posts are there."""
        return self._slots.slots_of(ids) >= 0

    def vectors(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n d"]:
        """The vectors of posts: fp32 where that is kept, else what is scanned; zeros for those that are not there."""
        slots = self._slots.slots_of(ids)
        there = np.flatnonzero(slots >= 0)
        vectors = np.zeros((len(ids), self._dim), np.float32)
        for number, rows, given in self._by_chunk(slots[there]):
            chunk = self.snapshot.chunks[number]
            vectors[there[given]] = chunk.vectors[rows] if len(chunk.vectors) else read(chunk.panels, rows)
        return vectors

    def upsert(self, ids: Int64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n d"], traits: Traits) -> None:
        """Insert posts, or replace them; of an id named twice the last one stays."""
        fresh = self._take(len(ids))
        chunks = self.snapshot.chunks + tuple(self._new_chunks(int(fresh.max(initial=-1)) + 1))
        for number, rows, given in self._by_chunk(fresh):
            _write(chunks[number], rows, ids[given], vectors[given], Traits(*(column[given] for column in traits)))
        before = self._slots.assign(ids, fresh)
        self._show(chunks, fresh, before[before >= 0])

    def remove(self, ids: Int64[np.ndarray, " n"]) -> None:
        """Forget posts; those that are not there do no harm."""
        self._show(self.snapshot.chunks, np.zeros(0, np.int64), self._slots.release(ids))

    def describe(self, ids: Int64[np.ndarray, " n"], traits: Traits) -> None:
        """Replace what masks look at, where the posts are there."""
        slots = self._slots.slots_of(ids)
        there = np.flatnonzero(slots >= 0)
        for number, rows, given in self._by_chunk(slots[there]):
            for column, values in zip(self.snapshot.chunks[number].traits, traits, strict=True):
                column[rows] = values[there[given]]

    def warm_up(self, batches: Sequence[int], k: int) -> None:
        """Compile what is not yet; the index stays as it is."""
        blank = HostSlab(self._dim, self._precision, exact=self._rescored, chunk_rows=self._chunk_rows)
        blank.upsert(np.array([1]), np.zeros((1, self._dim), np.float32), Traits.unknown(1))
        for batch in batches:
            blank.search(np.zeros((batch, self._dim), np.float32), k, [Mask()] * batch)
        blank.remove(np.array([1]))

    def search(
        self, queries: Float32[np.ndarray, "B d"], k: int, masks: Sequence[Mask]
    ) -> tuple[Int64[np.ndarray, "B k"], Float32[np.ndarray, "B k"]]:
        """The k best of each query, as `VectorIndex.search` says."""
        snapshot = self.snapshot
        ids, scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        looked_for = min(k, snapshot.rows)
        if not looked_for or not len(queries):
            return ids, scores
        asked = _asked(queries, masks)
        found = _guessed(snapshot, asked, looked_for)
        if found is None:
            asked.floor[:] = -np.inf
            found = _scanned(snapshot, asked, looked_for)
        _finish(found, scores, ids)
        return ids, scores

    def _take(self, count: int) -> Int64[np.ndarray, " count"]:
        """Rows that no search sees: those that were given up, as far as there are any, and new ones."""
        given_up = [self._free]
        while self._leaving and self._leaving[0][0]() is None:
            given_up.append(self._leaving.popleft()[1])
        self._free = np.concatenate(given_up)
        again, self._free = self._free[:count], self._free[count:]
        first = self.snapshot.rows
        return np.concatenate([again, np.arange(first, first + count - len(again))])

    def _new_chunks(self, rows: int) -> Iterator[Chunk]:
        for _ in range(len(self.snapshot.chunks) * self._chunk_rows, rows, self._chunk_rows):
            # a row's id and traits side by side: what is looked at here and there costs one cache line, not five
            id_, author, language, labels = np.zeros((self._chunk_rows, 4), np.int64).T
            yield Chunk(
                empty_panels(self._chunk_rows, self._dim, self._precision),
                np.zeros((self._chunk_rows if self._rescored else 0, self._dim), np.float32),
                id_,
                Traits(author, language, labels.view(np.uint64), np.zeros(self._chunk_rows, np.bool_)),
            )

    def _show(self, chunks: tuple[Chunk, ...], new: Int64[np.ndarray, " n"], gone: Int64[np.ndarray, " m"]) -> None:
        """Make the next snapshot the current one: with new rows, without those that are gone (a row may be both)."""
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
        """For each chunk that slots are in: its number, the rows there, and which of the slots they are."""
        order = np.argsort(slots, kind="stable")
        numbers, begins = np.unique(slots[order] // self._chunk_rows, return_index=True)
        for number, given in zip(numbers.tolist(), np.split(order, begins)[1:], strict=True):
            yield number, slots[given] % self._chunk_rows, given


def _write(
    chunk: Chunk,
    rows: Int64[np.ndarray, " n"],
    ids: Int64[np.ndarray, " n"],
    vectors: Float32[np.ndarray, "n d"],
    traits: Traits,
) -> None:
    write(chunk.panels, rows, vectors)
    if len(chunk.vectors):
        chunk.vectors[rows] = vectors
    chunk.ids[rows] = ids
    for column, values in zip(chunk.traits, traits, strict=True):
        column[rows] = values


def _asked(queries: Float32[np.ndarray, "B d"], masks: Sequence[Mask]) -> Queries:
    queries = np.ascontiguousarray(queries, np.float32)
    norms = np.nextafter(np.linalg.norm(queries.astype(np.float64), axis=1).astype(np.float32), np.float32(np.inf))
    floor = np.full(len(queries), -np.inf, np.float32)
    return Queries(queries, tiles(queries), norms, Masks.of(masks), floor)


def _guessed(snapshot: Snapshot, asked: Queries, k: int) -> Candidates | None:
    """The candidates, if a guess at the k-th best score is low enough, which it nearly always is.

    Until k good rows are found a floor is low, and rows by the thousand are looked at in vain. A sample tells where the
    floor will end: at about its `k / _SAMPLED`-th best. The guess stays below by five standard deviations of how many
    of the k best a sample has, twice what would make one in a million searches start again.
    """
    if len(snapshot.chunks) < _WORTH_GUESSING:
        return None
    expected = k / _SAMPLED
    sampled = int(expected + 5 * expected**0.5) + 5
    sample = _scanned(snapshot, asked, sampled, _SAMPLED)
    best = np.full((len(asked.floor), sampled), -np.inf, np.float32)
    _finish(sample, best, np.empty(best.shape, np.int64))
    guess = best[:, -1]
    asked.floor[:] = guess
    found = _scanned(snapshot, asked, k)
    too_few = (found.counts.sum(axis=0) < k) & (guess > -np.inf)
    return None if too_few.any() else found


def _scanned(snapshot: Snapshot, asked: Queries, k: int, step: int = 1) -> Candidates:
    """The k best and others of every `step`-th panel, by as many threads as there is work for."""
    threads = min(len(snapshot.chunks), _cores())
    found = no_candidates(threads, len(asked.floor), k)
    numbers = iter(range(len(snapshot.chunks)))  # shared: each thread takes the next when it is done with one

    def work(thread: int) -> None:
        own, reached = Candidates(*(part[thread] for part in found)), none_reached(len(asked.floor))
        for number in numbers:
            chunk, shown = snapshot.chunks[number], snapshot.shown[number]
            panels = -(-min(snapshot.rows - number * len(shown), len(shown)) // PANEL)
            scan(chunk, shown, panels, step, asked, k, own, reached)

    _by_all(threads, work)
    return found


def _finish(found: Candidates, scores: Float32[np.ndarray, "B k"], ids: Int64[np.ndarray, "B k"]) -> None:
    """Write the best of the candidates, in order."""
    threads = min(len(scores), _cores())
    _by_all(threads, lambda thread: finish(found, thread, threads, scores, ids))


def _by_all(threads: int, work: Callable[[int], None]) -> None:
    others = [_pool().submit(work, thread) for thread in range(1, threads)]
    work(0)
    for other in others:
        other.result()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads beside the one that asks, shared by all searches."""
    return ThreadPoolExecutor(max(_cores() - 1, 1), "scan")
