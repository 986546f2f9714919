"""The retrieval index: exact top-k by inner product over the vectors of all servable posts.

Each model version has a flat index of its own width. So vectors of a new version arrive while searches use the old one,
and vectors of two versions are never compared. The search is exact, because a post must be found a moment after it is
published: an approximate index would pay for its speed with rebuilds.

glossary of shapes: `n` given posts, `dim` components of a vector, `queries` of a batch, `top_k` results of a query.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int64

from phoenix.index.device_index import DeviceIndex
from phoenix.index.host_index import HostIndex
from phoenix.index.masks import Mask, Traits

__all__ = ["Mask", "Traits", "VectorIndex"]


class FlatIndex(Protocol):
    """The vectors of one model version, for exhaustive search. One writer at a time, any number of searches."""

    def __len__(self) -> int:
        """The number of posts."""
        ...

    @property
    def ids(self) -> Int64[np.ndarray, " n"]:
        """The ids of all posts, in no order."""
        ...

    def holds(self, ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """True for posts in the index."""
        ...

    def upsert(self, ids: Int64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n dim"], traits: Traits) -> None:
        """Insert or replace posts; the last of a repeated id wins."""
        ...

    def vectors(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        """The stored vectors of posts, zeros for other ids; never call it beside a writer."""
        ...

    def describe(self, ids: Int64[np.ndarray, " n"], traits: Traits) -> None:
        """Replace the traits of posts in the index; the last of a repeated id wins."""
        ...

    def remove(self, ids: Int64[np.ndarray, " n"]) -> None:
        """Remove posts; other ids are ignored."""
        ...

    def warm_up(self, batches: Sequence[int], k: int) -> None:
        """Compile the functions for searches with these numbers of queries; the vectors stay unchanged."""
        ...

    def search(
        self, queries: Float32[np.ndarray, "queries dim"], k: int, masks: Sequence[Mask]
    ) -> tuple[Int64[np.ndarray, "queries top_k"], Float32[np.ndarray, "queries top_k"]]:
        """Search like `VectorIndex.search`."""
        ...


def index_for_this_machine(dim: int) -> FlatIndex:
    """An index on the accelerators, or on the host of a machine without accelerators."""
    return HostIndex(dim) if jax.default_backend() == "cpu" else DeviceIndex(dim)


class VectorIndex:
    """Unit vectors by post id. Any thread may call any method; a search never waits for a lock.

    Args:
        flat_index: makes the empty index of a version, of a given width.

    """

    def __init__(self, flat_index: Callable[[int], FlatIndex] = index_for_this_machine) -> None:
        self._new_index = flat_index
        self._indexes: dict[str, FlatIndex] = {}
        self._widths: dict[str, int] = {}
        self._writing = threading.Lock()

    def warm_up(self, dim: int, batches: Sequence[int], k: int) -> None:
        """Compile the functions for searches of this width, with these numbers of queries and `k` results."""
        self._new_index(dim).warm_up(batches, k)

    def __len__(self) -> int:
        """The number of posts with a vector of any version."""
        with self._writing:
            indexes = list(self._indexes.values())
            if len(indexes) == 1:
                return len(indexes[0])
            return len(np.unique(np.concatenate([np.zeros(0, np.int64), *(index.ids for index in indexes)])))

    def upsert(
        self,
        ids: Int64[np.ndarray, " n"],
        vectors: Float32[np.ndarray, "n dim"],
        version: str,
        traits: Traits | None = None,
    ) -> None:
        """Insert vectors, or replace those of the same version; the last of a repeated id wins.

        The first vectors of a version set its width.

        Raises:
            ValueError: for shapes that do not match, a component that is not finite, or id 0.

        """
        dim = self._widths.get(version) or int(vectors.shape[-1])
        if vectors.shape != (len(ids), dim):
            raise ValueError(f"vectors of shape {vectors.shape} for {len(ids)} ids; expected ({len(ids)}, {dim})")
        if not np.isfinite(vectors).all():
            raise ValueError("vectors must be finite")
        if not np.all(ids):
            raise ValueError("id 0 is no post")
        ids, vectors = np.ascontiguousarray(ids, np.int64), np.ascontiguousarray(vectors, np.float32)
        with self._writing:
            index = self._indexes.get(version)
            if index is None:
                index = self._new_index(dim)
            index.upsert(ids, vectors, traits or Traits.unknown(len(ids)))
            self._indexes[version], self._widths[version] = index, dim

    def count(self, version: str) -> int:
        """The number of posts with a vector of this version."""
        index = self._indexes.get(version)
        return 0 if index is None else len(index)

    def holds(self, ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """True for posts with a vector of any version."""
        with self._writing:
            held = np.zeros(len(ids), np.bool_)
            for index in self._indexes.values():
                held |= index.holds(ids)
            return held

    def lacking(
        self, version: str, other: str, among: Int64[np.ndarray, " n"] | None = None
    ) -> Int64[np.ndarray, " m"]:
        """The posts, of all or among some, with a vector of another version and without one of this version."""
        with self._writing:
            index, beside = self._indexes.get(version), self._indexes.get(other)
            if beside is None:
                return np.zeros(0, np.int64)
            ids = beside.ids if among is None else among[beside.holds(among)]
            return ids if index is None else ids[~index.holds(ids)]

    def vectors(self, ids: Int64[np.ndarray, " n"], version: str) -> Float32[np.ndarray, "n dim"]:
        """The vectors of posts in a version, zeros for posts without one; waits for a writer.

        The width of an unknown version is 0.
        """
        with self._writing:
            index = self._indexes.get(version)
            if index is None:
                return np.zeros((len(ids), 0), np.float32)
            return index.vectors(np.ascontiguousarray(ids, np.int64))

    def describe(self, ids: Int64[np.ndarray, " n"], traits: Traits) -> None:
        """Replace the traits of posts in every version."""
        with self._writing:
            for index in self._indexes.values():
                index.describe(ids, traits)

    def remove(self, ids: Int64[np.ndarray, " n"], version: str | None = None) -> None:
        """Remove posts from every version or from one; other ids are ignored."""
        with self._writing:
            for name, index in self._indexes.items():
                if version in (None, name):
                    index.remove(ids)

    def forget(self, version: str) -> None:
        """Drop a version and free its vectors; a running search is not affected."""
        with self._writing:
            self._indexes.pop(version, None)
            self._widths.pop(version, None)

    def search(
        self,
        queries: Float32[np.ndarray, "queries dim"],
        k: int,
        version: str,
        masks: Sequence[Mask] | None = None,
    ) -> tuple[Int64[np.ndarray, "queries top_k"], Float32[np.ndarray, "queries top_k"]]:
        """The k posts with the greatest inner product for each query, best first, ties by descending id.

        Args:
            queries: one row per query.
            k: results per query.
            version: of the model of the queries.
            masks: one per query; excluded posts take no place among the k.

        Returns:
            ids and scores; id -1 with score -inf for missing results.

        """
        index = self._indexes.get(version)
        if index is None:
            return np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        return index.search(queries, k, masks or [Mask()] * len(queries))
