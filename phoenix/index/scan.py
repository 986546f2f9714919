"""The scan of a chunk: products, thresholds and masks in one pass, with the k best candidates of each query.

glossary of shapes: `rows` of a chunk, `dim` components of a vector, `queries` of a batch, `tiles` of four queries,
`candidates` of a query (room for at least 2 k), `top_k` results, `n` ids of sets.

A quantised scan with re-scoring: the scan examines a row if its approximate product plus its error bound reaches the
query's floor, which is the k-th best score so far, or an estimate of it. Few rows do, so the work per examined row
(snapshot, mask, exact score) costs little. Only allowed rows raise the floor, so a mask never leaves fewer than k
results.
"""

import platform
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64

from phoenix.index import int8_kernel, plain_kernel
from phoenix.index.int8_kernel import LANES, PANEL, TILE, Panels
from phoenix.index.masks import Masks, Traits
from phoenix.index.top_k import select, sort
from thunder_ingest.kernels.compiled import inlined, kernel, summing

_PROCESSORS: Final = ("x86_64", "amd64", "arm64", "aarch64")
"""The processors on which the LLVM IR of `int8_kernel` has been tried."""
_kernels: Any = int8_kernel if platform.machine().lower() in _PROCESSORS else plain_kernel
products, reaching, lowest, fetch_row = _kernels.products, _kernels.reaching, _kernels.lowest, _kernels.fetch_row
_LEAST_ROOM: Final = 64
_EXAMINED_AT_ONCE: Final = 512


class Chunk(NamedTuple):
    """A fixed number of rows. Only a row that no snapshot shows is written, except for traits."""

    panels: Panels
    vectors: Float32[np.ndarray, "rows dim"]  # for exact scores; without rows if the scores of the panels are final
    ids: Int64[np.ndarray, " rows"]
    traits: Traits


class Queries(NamedTuple):
    """The queries of a scan. It drops scores below `floor`, which all threads share and raise."""

    vectors: Float32[np.ndarray, "queries dim"]
    tiles: Float32[np.ndarray, "tiles dim 4"]
    norms: Float32[np.ndarray, " queries"]  # rounded up
    masks: Masks
    floor: Float32[np.ndarray, " queries"]


class Candidates(NamedTuple):
    """The candidates of one thread, in no order; after a selection the k best are in front."""

    scores: Float32[np.ndarray, "queries candidates"]
    ids: Int64[np.ndarray, "queries candidates"]
    counts: Int64[np.ndarray, " queries"]


class Reached(NamedTuple):
    """Rows of the current chunk that reached the floor of a query and wait for examination."""

    rows: Int64[np.ndarray, "queries 512"]
    scores: Float32[np.ndarray, "queries 512"]
    counts: Int64[np.ndarray, " queries"]


def none_reached(batch: int) -> Reached:
    """Empty buffers for a batch."""
    room = (batch, _EXAMINED_AT_ONCE)
    return Reached(np.empty(room, np.int64), np.empty(room, np.float32), np.zeros(batch, np.int64))


def no_candidates(threads: int, batch: int, k: int) -> Candidates:
    """Empty candidates of each thread, on a leading axis."""
    room = 2 * max(k, _LEAST_ROOM)
    return Candidates(
        np.empty((threads, batch, room), np.float32),
        np.empty((threads, batch, room), np.int64),
        np.zeros((threads, batch), np.int64),
    )


@inlined
def _holds(ids: Int64[np.ndarray, " n"], bounds: Int64[np.ndarray, " queries+1"], query: int, id_: int) -> bool:
    """True if the query's set of `IdSets` contains an id: a binary search."""
    low, end = bounds[query], bounds[query + 1]
    high = end
    while low < high:
        middle = (low + high) // 2
        if ids[middle] < id_:
            low = middle + 1
        else:
            high = middle
    return bool(low < end and ids[low] == id_)


@kernel
def _apply_mask(chunk: Chunk, shown: Bool[np.ndarray, " rows"], masks: Masks, query: int, reached: Reached) -> None:
    """Keep only rows that the snapshot shows and the query's mask allows."""
    without, video = masks.without_labels[query], masks.video[query]
    left = 0
    for number in range(reached.counts[query]):
        fetch_row(chunk.ids, reached.rows[query, number], 0)
    for number in range(reached.counts[query]):
        row = reached.rows[query, number]
        if not shown[row] or chunk.traits.labels[row] & without or (chunk.traits.video[row] and not video):
            continue
        language, author, id_ = chunk.traits.language[row], chunk.traits.author[row], chunk.ids[row]
        if not masks.any_language[query] and not _holds(masks.languages.ids, masks.languages.bounds, query, language):
            continue
        if not masks.any_author[query] and not _holds(masks.authors.ids, masks.authors.bounds, query, author):
            continue
        if _holds(masks.without_authors.ids, masks.without_authors.bounds, query, author):
            continue
        if _holds(masks.without_posts.ids, masks.without_posts.bounds, query, id_):
            continue
        reached.rows[query, left], reached.scores[query, left] = row, reached.scores[query, number]
        left += 1
        if len(chunk.vectors):
            for d in range(0, chunk.vectors.shape[1], LANES):
                fetch_row(chunk.vectors, row, 4 * d)
    reached.counts[query] = left


@summing
def _score(
    vectors: Float32[np.ndarray, "rows dim"], queries: Float32[np.ndarray, "queries dim"], query: int, reached: Reached
) -> None:
    """Replace the scores of the scan by exact scores."""
    for number in range(reached.counts[query]):
        row, sum_ = reached.rows[query, number], np.float32(0)
        for d in range(vectors.shape[1]):
            sum_ += vectors[row, d] * queries[query, d]
        reached.scores[query, number] = sum_


@kernel
def scan(
    chunk: Chunk,
    shown: Bool[np.ndarray, " rows"],
    panels: int,
    step: int,
    queries: Queries,
    k: int,
    found: Candidates,
    reached: Reached,
) -> None:
    """Find the candidates of each query in every `step`-th of the first `panels` of a chunk."""
    floor, scale, error = queries.floor, chunk.panels.scale, chunk.panels.error
    room = np.empty((TILE, PANEL), np.float32)
    # every row reaches an infinite floor: examine enough rows early to raise it for all later rows
    enough = min(max(k, _LEAST_ROOM), _EXAMINED_AT_ONCE - PANEL)
    for panel in range(0, panels, step):
        for tile in range(len(queries.tiles)):
            products(chunk.panels.stored, panel, panel + step, queries.tiles, tile, room)
            for place in range(min(TILE, len(floor) - tile * TILE)):
                query = tile * TILE + place
                bits = reaching(room, place, scale, error, panel, queries.norms[query], floor[query])
                if not bits:
                    continue
                count = reached.counts[query]
                while bits:
                    lane = lowest(bits)
                    bits &= bits - np.uint64(1)
                    reached.rows[query, count] = panel * PANEL + lane
                    reached.scores[query, count] = room[place, lane] * scale[panel, lane]
                    count += 1
                reached.counts[query] = count
                if count >= enough:
                    _examine(chunk, shown, queries, query, k, found, reached)
    for query in range(len(floor)):
        _examine(chunk, shown, queries, query, k, found, reached)


@kernel
def _examine(
    chunk: Chunk,
    shown: Bool[np.ndarray, " rows"],
    queries: Queries,
    query: int,
    k: int,
    found: Candidates,
    reached: Reached,
) -> None:
    """Examine the rows that reached the floor, and add the good ones to the candidates."""
    _apply_mask(chunk, shown, queries.masks, query, reached)
    if len(chunk.vectors):
        _score(chunk.vectors, queries.vectors, query, reached)
    floor, count, room = queries.floor[query], found.counts[query], found.scores.shape[1]
    for number in range(reached.counts[query]):
        score = reached.scores[query, number]
        if score < floor:
            continue
        found.scores[query, count], found.ids[query, count] = score, chunk.ids[reached.rows[query, number]]
        count += 1
        if count == room:
            select(found.scores[query], found.ids[query], count, k)
            count = k
            floor = max(floor, found.scores[query, k - 1])
    queries.floor[query] = max(queries.floor[query], floor)
    found.counts[query] = count
    reached.counts[query] = 0


@kernel
def finish(
    found: Candidates,
    first: int,
    step: int,
    scores: Float32[np.ndarray, "queries top_k"],
    ids: Int64[np.ndarray, "queries top_k"],
) -> None:
    """Write the best candidates of all threads, in order, for every `step`-th query; missing results stay unchanged."""
    for query in range(first, len(scores), step):
        counts = found.counts[:, query]
        all_scores = np.empty(counts.sum(), np.float32)
        all_ids = np.empty(len(all_scores), np.int64)
        filled = 0
        for thread in range(len(counts)):
            all_scores[filled : filled + counts[thread]] = found.scores[thread, query, : counts[thread]]
            all_ids[filled : filled + counts[thread]] = found.ids[thread, query, : counts[thread]]
            filled += counts[thread]
        k = min(scores.shape[1], filled)
        if k:
            select(all_scores, all_ids, filled, k)
            sort(all_scores, all_ids, k)
            scores[query, :k], ids[query, :k] = all_scores[:k], all_ids[:k]
