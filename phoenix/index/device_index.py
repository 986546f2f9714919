"""The flat index of one model version on accelerators, with rows sharded over all devices.

glossary of shapes: `rows` of a chunk, `shard` (rows of a chunk on one device), `dim` components, `queries` of a batch
and `top_k` results, both rounded up to powers of two, `ids` in a set of a mask (SET_SIZES), `n` given posts.

No shape grows with the index: more posts make more chunks, and the same compiled functions serve all chunks. Arrays on
a device are immutable. A search that holds a tuple of chunks sees one state of the index during later writes.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Float32, Int32, Int64, UInt64

from phoenix.index.masks import IdSets, Mask, Masks, Traits
from phoenix.index.slot_table import SlotTable

CHUNK_ROWS: Final = 65_536
_WRITTEN_AT_ONCE: Final = (64, 4_096)
_READ_AT_ONCE: Final = 256
SET_SIZES: Final = (64, 512, 4_096)
"""Padded sizes of the sets in masks; larger sets are padded to a power of two."""
_spec: Any = PartitionSpec
_ROWS: Final = _spec("rows")
_EVERYWHERE: Final = _spec()
Column = Any
"""A NumPy array on the host, a JAX array on the devices."""


class Rows(NamedTuple):
    """A chunk; only shown rows hold a post."""

    vectors: Float[Column, "rows dim"]
    ids: Int64[Column, " rows"]
    traits: Traits
    shown: Bool[Column, " rows"]


class PaddedSets(NamedTuple):
    """A sorted set per query, padded with its last id; `some` is False for an empty set, which is all zeros."""

    ids: Int64[Column, "queries ids"]
    some: Bool[Column, " queries"]


class PaddedMasks(NamedTuple):
    """`Masks` in padded shapes, for which functions are compiled."""

    any_language: Bool[Column, " queries"]
    languages: PaddedSets
    any_author: Bool[Column, " queries"]
    authors: PaddedSets
    without_authors: PaddedSets
    without_posts: PaddedSets
    without_labels: UInt64[Column, " queries"]
    video: Bool[Column, " queries"]


class Best(NamedTuple):
    """The best results so far, best first; id -1 with score -inf for missing ones."""

    scores: Float32[Column, "queries top_k"]
    ids: Int64[Column, "queries top_k"]


class DeviceIndex:
    """Vectors by post id. One writer at a time; any number of concurrent searches.

    Args:
        dim: width of the vectors.
        dtype: of the stored vectors; products are summed in fp32, so fp32 vectors have exact scores.
        chunk_rows: a multiple of the number of devices.

    Attributes:
        chunks: the current state, which the next search reads.

    """

    def __init__(self, dim: int, dtype: Any = jnp.float32, chunk_rows: int = CHUNK_ROWS) -> None:
        self._dim, self._dtype, self._chunk_rows = dim, dtype, chunk_rows
        self._slots = SlotTable()
        self._free, self._used = np.zeros(0, np.int64), 0
        self.chunks: tuple[Rows, ...] = ()
        self._functions = _compiled()

    @property
    def traces(self) -> int:
        """The number of traces by all indexes so far; it does not grow with an index."""
        return self._functions.traces

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
        """The stored vectors of posts, zeros for other ids."""
        slots = self._slots.slots_of(ids)
        vectors = np.zeros((len(ids), self._dim), np.float32)
        for number in np.unique(slots[slots >= 0] // self._chunk_rows).tolist():
            inside = np.flatnonzero((slots >= 0) & (slots // self._chunk_rows == number))
            for wanted in np.split(inside, range(_READ_AT_ONCE, len(inside), _READ_AT_ONCE)):
                places = np.full(_READ_AT_ONCE, self._chunk_rows, np.int32)
                places[: len(wanted)] = slots[wanted] % self._chunk_rows
                with jax.enable_x64(True):
                    taken = self._functions.take(self.chunks[number].vectors, places)
                vectors[wanted] = np.asarray(taken)[: len(wanted)]
        return vectors

    def upsert(self, ids: Int64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n dim"], traits: Traits) -> None:
        """Insert or replace posts; the last of a repeated id wins."""
        last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
        ids, vectors, traits = ids[last], vectors[last], Traits(*(column[last] for column in traits))
        slots = self._slots.slots_of(ids)
        new = np.flatnonzero(slots < 0)
        slots[new] = self._take(len(new))
        self._slots.assign(ids, slots)
        rows = Rows(vectors.astype(self._dtype), ids, traits, np.ones(len(ids), np.bool_))
        self.chunks = self._written(slots, rows, lambda chunk: chunk, lambda _, changed: changed)

    def remove(self, ids: Int64[np.ndarray, " n"]) -> None:
        """Remove posts; other ids are ignored."""
        slots = self._slots.release(ids)
        self._free = np.concatenate([self._free, slots])
        gone = np.zeros(len(slots), np.bool_)
        self.chunks = self._written(
            slots, gone, lambda chunk: chunk.shown, lambda chunk, shown: chunk._replace(shown=shown)
        )

    def describe(self, ids: Int64[np.ndarray, " n"], traits: Traits) -> None:
        """Replace the traits of posts in the index; the last of a repeated id wins."""
        last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
        slots = self._slots.slots_of(ids[last])
        there = last[slots >= 0]
        self.chunks = self._written(
            slots[slots >= 0],
            Traits(*(column[there] for column in traits)),
            lambda chunk: chunk.traits,
            lambda chunk, changed: chunk._replace(traits=changed),
        )

    def warm_up(self, batches: Sequence[int], k: int) -> None:
        """Compile for these numbers of queries and all sizes of masks; the index stays unchanged."""
        blank = DeviceIndex(self._dim, self._dtype, self._chunk_rows)
        for size in _WRITTEN_AT_ONCE:
            ids = np.arange(1, size + 1)
            blank.upsert(ids, np.zeros((size, self._dim), np.float32), Traits.unknown(size))
            blank.describe(ids, Traits.unknown(size))
            blank.vectors(ids[:1])
            blank.remove(ids[1:])
        for batch in batches:
            for size in SET_SIZES:
                masks = [Mask(without_posts=np.arange(size))] * batch
                blank.search(np.zeros((batch, self._dim), np.float32), k, masks)

    def search(
        self, queries: Float32[np.ndarray, "queries dim"], k: int, masks: Sequence[Mask]
    ) -> tuple[Int64[np.ndarray, "queries top_k"], Float32[np.ndarray, "queries top_k"]]:
        """The k best posts of each query, like `VectorIndex.search`."""
        chunks = self.chunks  # one state, during later writes too
        batch, results = _rounded(len(queries)), _rounded(k)
        padded = np.zeros((batch, self._dim), np.float32)
        padded[: len(queries)] = queries
        with jax.enable_x64(True):
            wanted = _padded([*masks, *[Mask()] * (batch - len(queries))])
            none = Best(np.full((batch, results), -np.inf, np.float32), np.full((batch, results), -1, np.int64))
            # placed like the results of a chunk, so that the first call runs the same compiled function
            best = jax.device_put(none, NamedSharding(self._functions.mesh, _EVERYWHERE))
            for chunk in chunks:
                best = self._functions.improve(chunk, padded, wanted, best)
        return np.array(best.ids)[: len(queries), :k], np.array(best.scores)[: len(queries), :k]

    def _take(self, count: int) -> Int64[np.ndarray, " count"]:
        again, self._free = self._free[:count], self._free[count:]
        first, self._used = self._used, self._used + count - len(again)
        return np.concatenate([again, np.arange(first, self._used)])

    def _written(
        self,
        slots: Int64[np.ndarray, " n"],
        values: Any,
        part: Callable[[Rows], Any],
        with_part: Callable[[Rows, Any], Rows],
    ) -> tuple[Rows, ...]:
        """The chunks with `part` of some rows replaced, in padded batches of few or many rows."""
        chunks = list(self.chunks)
        with jax.enable_x64(True):
            while len(chunks) * self._chunk_rows < self._used:
                chunks.append(self._empty())
            for number in np.unique(slots // self._chunk_rows).tolist():
                inside = np.flatnonzero(slots // self._chunk_rows == number)
                for given in np.split(inside, range(_WRITTEN_AT_ONCE[-1], len(inside), _WRITTEN_AT_ONCE[-1])):
                    size = next(size for size in _WRITTEN_AT_ONCE if size >= len(given))
                    places = np.full(size, self._chunk_rows, np.int32)
                    places[: len(given)] = slots[given] % self._chunk_rows
                    filled = jax.tree.map(partial(_filled, given, size), values)
                    changed = self._functions.put(part(chunks[number]), places, filled)
                    chunks[number] = with_part(chunks[number], changed)
        return tuple(chunks)

    def _empty(self) -> Rows:
        rows = self._chunk_rows
        blank = Rows(
            np.zeros((rows, self._dim), self._dtype),
            np.zeros(rows, np.int64),
            Traits.unknown(rows),
            np.zeros(rows, np.bool_),
        )
        on_devices: Rows = jax.device_put(blank, NamedSharding(self._functions.mesh, _ROWS))
        return on_devices


class _Functions:
    """The compiled functions over all devices, one for each bucket of sizes."""

    def __init__(self) -> None:
        self.traces = 0
        self.mesh = Mesh(np.array(jax.devices()), ("rows",))
        self.put = self._compiled(_put, (_ROWS, _EVERYWHERE, _EVERYWHERE), _ROWS)
        self.take = self._compiled(_take, (_ROWS, _EVERYWHERE), _EVERYWHERE)
        self.improve = self._compiled(_improve, (_ROWS, _EVERYWHERE, _EVERYWHERE, _EVERYWHERE), _EVERYWHERE)

    def _compiled(self, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        def traced(*arguments: Any) -> Any:
            self.traces += 1
            return function(*arguments)

        # the check cannot infer that all devices have equal results after the all-gather
        return jax.jit(jax.shard_map(traced, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False))


@cache
def _compiled() -> _Functions:
    """The functions, shared by all indexes: vectors of other versions have the same shapes."""
    return _Functions()


def _put(columns: Any, places: Int32[Array, " n"], values: Any) -> Any:
    """The shard of columns with new values at those of the chunk's places that are in the shard."""

    def changed(column: Array, new: Array) -> Array:
        own = places - lax.axis_index("rows") * column.shape[0]
        return column.at[jnp.where(own < 0, column.shape[0], own)].set(new, mode="drop")

    return jax.tree.map(changed, columns, values)


def _take(vectors: Float[Array, "shard dim"], places: Int32[Array, " n"]) -> Float32[Array, "n dim"]:
    """The vectors at places of the chunk, each from its own device; zeros for a place behind the end."""
    own = places - lax.axis_index("rows") * vectors.shape[0]
    held = (own >= 0) & (own < vectors.shape[0])
    taken = jnp.where(held[:, None], vectors[jnp.where(held, own, 0)].astype(jnp.float32), 0)
    together: Float32[Array, "n dim"] = lax.psum(taken, "rows")
    return together


def _improve(rows: Rows, queries: Float32[Array, "queries dim"], masks: PaddedMasks, best: Best) -> Best:
    """Merge the best so far with the best of a chunk; runs on each device with its shard of the rows."""
    products = jnp.matmul(
        queries.astype(rows.vectors.dtype),
        rows.vectors.T,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    scores = jnp.where(_eligible(rows, masks), products, jnp.float32(-jnp.inf))
    own = _best_rows(scores, rows.ids, min(best.scores.shape[1], len(rows.ids)))
    found = Best(*(lax.all_gather(part, "rows", axis=1, tiled=True) for part in own))
    together = [jnp.concatenate(parts, axis=1) for parts in zip(best, found, strict=True)]
    worst_first = lax.sort(together, num_keys=2)
    return Best(*(part[:, ::-1][:, : best.scores.shape[1]] for part in worst_first))


def _best_rows(scores: Float32[Array, "queries shard"], ids: Int64[Array, " shard"], k: int) -> Best:
    """The k best rows of each query, in no order; ids decide among scores equal to the k-th."""
    greatest, places = lax.top_k(scores, k)
    kth = greatest[:, -1:]
    cut = (kth > -jnp.inf) & (jnp.sum(scores >= kth, axis=1, keepdims=True, dtype=jnp.int32) > k)

    def by_id(_: Array) -> Array:
        limits = np.iinfo(np.int64)
        equal = jnp.where(scores == kth, ids[None], limits.min)
        return lax.top_k(jnp.where(scores > kth, limits.max, equal), k)[1].astype(places.dtype)

    places = lax.cond(jnp.any(cut), by_id, lambda found: found, places)
    chosen = jnp.take_along_axis(scores, places, axis=1)
    return Best(chosen, jnp.where(chosen > -jnp.inf, ids[places], -1))


def _eligible(rows: Rows, masks: PaddedMasks) -> Bool[Array, "queries shard"]:
    author, language, labels, video = (jnp.asarray(column) for column in rows.traits)
    clean = (labels[None] & masks.without_labels[:, None]) == 0
    silent = ~video[None] | masks.video[:, None]
    spoken = masks.any_language[:, None] | _held(masks.languages, language)
    wanted = masks.any_author[:, None] | _held(masks.authors, author)
    unwanted = _held(masks.without_authors, author) | _held(masks.without_posts, rows.ids)
    eligible: Bool[Array, "queries shard"] = rows.shown[None] & clean & silent & spoken & wanted & ~unwanted
    return eligible


def _held(sets: PaddedSets, values: Int64[Array, " shard"]) -> Bool[Array, "queries shard"]:
    def one(ids: Int64[Array, " ids"]) -> Bool[Array, " shard"]:
        places = jnp.minimum(jnp.searchsorted(ids, values), len(ids) - 1)
        return ids[places] == values

    held: Bool[Array, "queries shard"] = jax.vmap(one)(sets.ids) & sets.some[:, None]
    return held


def _padded(masks: Sequence[Mask]) -> PaddedMasks:
    plain = Masks.of(masks)
    largest = max(int(np.diff(part.bounds).max()) for part in plain if isinstance(part, IdSets))
    size = next((size for size in SET_SIZES if size >= largest), _rounded(largest))
    parts: list[Any] = [_padded_sets(part, size) if isinstance(part, IdSets) else part for part in plain]
    return PaddedMasks(*parts)


def _padded_sets(sets: IdSets, size: int) -> PaddedSets:
    sizes = np.diff(sets.bounds)
    places = np.minimum(np.arange(size), np.maximum(sizes - 1, 0)[:, None])
    ids = np.append(sets.ids, 0)[np.minimum(sets.bounds[:-1, None] + places, len(sets.ids))]
    return PaddedSets(ids, sizes > 0)


def _filled(given: Int64[np.ndarray, " m"], size: int, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The selected values, zero-padded to `size`."""
    filled = np.zeros((size, *values.shape[1:]), values.dtype)
    filled[: len(given)] = values[given]
    return filled


def _rounded(size: int) -> int:
    """The next power of two."""
    return 1 << max(size - 1, 0).bit_length()
