"""The scan: products, thresholds and masks in one pass over a chunk, keeping the k best of each query.

Glossary of shapes: B: queries; T: tiles of four queries; d: width; C: room for candidates of a query, at least 2 k.

A row is looked at where its product, with what that may be off, reaches the query's floor: the k-th best score so far,
or a guess at it. Almost no row does, so that what is done for one (is it in the snapshot, does the mask let it through,
its exact score) hardly counts. Only rows that may be found raise the floor; k results are k results however much a mask
leaves out.
"""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64

from phoenix.index.int8_kernel import LANES, PANEL, TILE, Panels, fetch_row, lowest, products, reaching
from phoenix.index.masks import Masks, Traits
from phoenix.index.top_k import select, sort
from thunder_ingest.kernels.compiled import inlined, kernel, summing

_LEAST_ROOM: Final = 64
_LOOKED_AT_ONCE: Final = 512


class Chunk(NamedTuple):
    """A fixed number of rows. A row is written while no snapshot shows it; of one that is shown only traits change."""

    panels: Panels
    vectors: Float32[np.ndarray, "rows d"]  # for exact scores; no rows where the panels' scores are final
    ids: Int64[np.ndarray, " rows"]
    traits: Traits


class Queries(NamedTuple):
    """What a scan looks for. Of scores below the `floor`, which all threads share and raise, none is kept."""

    vectors: Float32[np.ndarray, "B d"]
    tiles: Float32[np.ndarray, "T d 4"]
    norms: Float32[np.ndarray, " B"]  # rounded up
    masks: Masks
    floor: Float32[np.ndarray, " B"]


class Candidates(NamedTuple):
    """What one thread has found so far, in no order but for the k best in front after each selection."""

    scores: Float32[np.ndarray, "B C"]
    ids: Int64[np.ndarray, "B C"]
    counts: Int64[np.ndarray, " B"]


class Reached(NamedTuple):
    """Rows of the chunk at hand that reached the floor of a query and are still to be looked at."""

    rows: Int64[np.ndarray, "B 512"]
    scores: Float32[np.ndarray, "B 512"]
    counts: Int64[np.ndarray, " B"]


def none_reached(batch: int) -> Reached:
    """Room for them."""
    room = (batch, _LOOKED_AT_ONCE)
    return Reached(np.empty(room, np.int64), np.empty(room, np.float32), np.zeros(batch, np.int64))


def no_candidates(threads: int, batch: int, k: int) -> Candidates:
    """Room for what each thread finds, on a leading axis."""
    room = 2 * max(k, _LEAST_ROOM)
    return Candidates(
        np.empty((threads, batch, room), np.float32),
        np.empty((threads, batch, room), np.int64),
        np.zeros((threads, batch), np.int64),
    )


@inlined
def _holds(ids: Int64[np.ndarray, " n"], bounds: Int64[np.ndarray, " B+1"], query: int, id_: int) -> bool:
    """Whether a query's set of `IdSets` has an id in it."""
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
def _sift(chunk: Chunk, shown: Bool[np.ndarray, " rows"], masks: Masks, query: int, reached: Reached) -> None:
    """Leave only rows that the snapshot shows and the query's mask lets through."""
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
    vectors: Float32[np.ndarray, "rows d"], queries: Float32[np.ndarray, "B d"], query: int, reached: Reached
) -> None:
    """Replace what the scan found by exact scores."""
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
    """Find each query's candidates in every `step`-th of a chunk's first panels, of rows that a snapshot shows."""
    floor, scale, error = queries.floor, chunk.panels.scale, chunk.panels.error
    room = np.empty((TILE, PANEL), np.float32)
    # without a floor each row reaches it: as many as can raise it are looked at first, for all others to be held to it
    enough = min(max(k, _LEAST_ROOM), _LOOKED_AT_ONCE - PANEL)
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
                    _look(chunk, shown, queries, query, k, found, reached)
    for query in range(len(floor)):
        _look(chunk, shown, queries, query, k, found, reached)


@kernel
def _look(
    chunk: Chunk,
    shown: Bool[np.ndarray, " rows"],
    queries: Queries,
    query: int,
    k: int,
    found: Candidates,
    reached: Reached,
) -> None:
    """Make candidates of the rows that reached the floor and are good enough."""
    _sift(chunk, shown, queries.masks, query, reached)
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
    scores: Float32[np.ndarray, "B k"],
    ids: Int64[np.ndarray, "B k"],
) -> None:
    """Write the best of all threads' candidates of every `step`-th query, in order, as far as there are any."""
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
