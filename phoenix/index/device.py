"""The vectors of one model version on accelerators, their rows split over all devices.

Glossary of shapes: R: rows of a chunk; r: of them on one device; B: queries and K: results, rounded up to powers of
two; S: ids in a set of a mask, see SET_SIZES. None of the sizes grows with the index: more posts are more chunks, and
a compiled function serves them all. Arrays on a device are never changed but replaced, so a search that holds a tuple
of chunks sees one state of the index, whatever is written meanwhile.
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
"""The sets of a batch's masks are filled up to one of these, or to a power of two: blocks and seen posts by the dozen
or by the thousand."""
_spec: Any = PartitionSpec
_ROWS: Final = _spec("rows")
_EVERYWHERE: Final = _spec()
Column = Any
"""NumPy's array where it is made, JAX's on the devices."""


class Rows(NamedTuple):
    """A chunk; rows that are not shown hold no post."""

    vectors: Float[Column, "R d"]
    ids: Int64[Column, " R"]
    traits: Traits
    shown: Bool[Column, " R"]


class PaddedSets(NamedTuple):
    """A sorted set for each query, filled up with its last id; an empty one with zeros that `some` says to ignore."""

    ids: Int64[Column, "B S"]
    some: Bool[Column, " B"]


class PaddedMasks(NamedTuple):
    """`Masks` in shapes that are compiled for."""

    any_language: Bool[Column, " B"]
    languages: PaddedSets
    any_author: Bool[Column, " B"]
    authors: PaddedSets
    without_authors: PaddedSets
    without_posts: PaddedSets
    without_labels: UInt64[Column, " B"]
    video: Bool[Column, " B"]


class Best(NamedTuple):
    """The best so far, best first; id -1 with score -inf where there are fewer."""

    scores: Float32[Column, "B K"]
    ids: Int64[Column, "B K"]


class DeviceSlab:
    """Vectors by post id. One writer at a time; any number of searches at any time.

    Args:
        dim: width of the vectors.
        dtype: what they are stored as; products are summed in fp32, so with fp32 scores are exact.
        chunk_rows: a multiple of the number of devices.

    Attributes:
        chunks: what a search sees, as of now.

    """

    def __init__(self, dim: int, dtype: Any = jnp.float32, chunk_rows: int = CHUNK_ROWS) -> None:
        self._dim, self._dtype, self._chunk_rows = dim, dtype, chunk_rows
        self._slots = SlotTable()
        self._free, self._used = np.zeros(0, np.int64), 0
        self.chunks: tuple[Rows, ...] = ()
        self._functions = _compiled()

    @property
    def traces(self) -> int:
        """How many functions all slabs together have traced so far; does not grow with an index."""
        return self._functions.traces

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
        """The vectors of posts as they are stored, zeros for those that are not there."""
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

    def upsert(self, ids: Int64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n d"], traits: Traits) -> None:
        """Insert posts, or replace them; of an id named twice the last one stays."""
        last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
        ids, vectors, traits = ids[last], vectors[last], Traits(*(column[last] for column in traits))
        slots = self._slots.slots_of(ids)
        new = np.flatnonzero(slots < 0)
        slots[new] = self._take(len(new))
        self._slots.assign(ids, slots)
        rows = Rows(vectors.astype(self._dtype), ids, traits, np.ones(len(ids), np.bool_))
        self.chunks = self._written(slots, rows, lambda chunk: chunk, lambda _, changed: changed)

    def remove(self, ids: Int64[np.ndarray, " n"]) -> None:
        """Forget posts; those that are not there do no harm."""
        slots = self._slots.release(ids)
        self._free = np.concatenate([self._free, slots])
        gone = np.zeros(len(slots), np.bool_)
        self.chunks = self._written(
            slots, gone, lambda chunk: chunk.shown, lambda chunk, shown: chunk._replace(shown=shown)
        )

    def describe(self, ids: Int64[np.ndarray, " n"], traits: Traits) -> None:
        """Replace what masks look at, where the posts are there; of an id named twice the last one stays."""
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
        """Compile for these numbers of queries and for all sizes of masks; the index stays as it is."""
        blank = DeviceSlab(self._dim, self._dtype, self._chunk_rows)
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
        self, queries: Float32[np.ndarray, "B d"], k: int, masks: Sequence[Mask]
    ) -> tuple[Int64[np.ndarray, "B k"], Float32[np.ndarray, "B k"]]:
        """The k best of each query, as `VectorIndex.search` says."""
        chunks = self.chunks  # as of now, whatever is written while they are gone through
        batch, results = _rounded(len(queries)), _rounded(k)
        padded = np.zeros((batch, self._dim), np.float32)
        padded[: len(queries)] = queries
        with jax.enable_x64(True):
            wanted = _padded([*masks, *[Mask()] * (batch - len(queries))])
            none = Best(np.full((batch, results), -np.inf, np.float32), np.full((batch, results), -1, np.int64))
            # where the best of a chunk will be, too, so that the first chunk's call is compiled like all others
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
        """The chunks with a part of some rows replaced, which is done for few or for many rows at once."""
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
    """What is compiled for all devices, once for each bucket of sizes."""

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

        # that every device has the same best after it has gathered all is more than the check can see
        return jax.jit(jax.shard_map(traced, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False))


@cache
def _compiled() -> _Functions:
    """Shared by all slabs: another version's vectors are of the same shapes."""
    return _Functions()


def _put(columns: Any, places: Int32[Array, " n"], values: Any) -> Any:
    """One device's part of columns, with the values for those places of the chunk that are its own."""

    def changed(column: Array, new: Array) -> Array:
        own = places - lax.axis_index("rows") * column.shape[0]
        return column.at[jnp.where(own < 0, column.shape[0], own)].set(new, mode="drop")

    return jax.tree.map(changed, columns, values)


def _take(vectors: Float[Array, "r d"], places: Int32[Array, " n"]) -> Float32[Array, "n d"]:
    """The rows at those places of the chunk, each from the device that has it; zeros for a place behind its end."""
    own = places - lax.axis_index("rows") * vectors.shape[0]
    held = (own >= 0) & (own < vectors.shape[0])
    taken = jnp.where(held[:, None], vectors[jnp.where(held, own, 0)].astype(jnp.float32), 0)
    together: Float32[Array, "n d"] = lax.psum(taken, "rows")
    return together


def _improve(rows: Rows, queries: Float32[Array, "B d"], masks: PaddedMasks, best: Best) -> Best:
    """The best so far and the best of a chunk; called on each device with the rows that it has."""
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


def _best_rows(scores: Float32[Array, "B r"], ids: Int64[Array, " r"], k: int) -> Best:
    """The k best rows of each query, in no order. Where scores equal the k-th's are cut in two, ids decide."""
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


def _eligible(rows: Rows, masks: PaddedMasks) -> Bool[Array, "B r"]:
    author, language, labels, video = (jnp.asarray(column) for column in rows.traits)
    clean = (labels[None] & masks.without_labels[:, None]) == 0
    silent = ~video[None] | masks.video[:, None]
    spoken = masks.any_language[:, None] | _held(masks.languages, language)
    wanted = masks.any_author[:, None] | _held(masks.authors, author)
    unwanted = _held(masks.without_authors, author) | _held(masks.without_posts, rows.ids)
    eligible: Bool[Array, "B r"] = rows.shown[None] & clean & silent & spoken & wanted & ~unwanted
    return eligible


def _held(sets: PaddedSets, values: Int64[Array, " r"]) -> Bool[Array, "B r"]:
    def one(ids: Int64[Array, " S"]) -> Bool[Array, " r"]:
        places = jnp.minimum(jnp.searchsorted(ids, values), len(ids) - 1)
        return ids[places] == values

    held: Bool[Array, "B r"] = jax.vmap(one)(sets.ids) & sets.some[:, None]
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
    """Some of the values, filled up with zeros."""
    filled = np.zeros((size, *values.shape[1:]), values.dtype)
    filled[: len(given)] = values[given]
    return filled


def _rounded(size: int) -> int:
    """The next power of two."""
    return 1 << max(size - 1, 0).bit_length()
