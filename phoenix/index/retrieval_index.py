"""The retrieval index: exact top-k over the vectors of all servable posts, insertable and deletable at once.

A model version has a slab of its own, of its own width, so that a new version's vectors can arrive while the old one is
still asked: vectors of two versions are never compared. Exact because a post published a moment ago must be found a
moment later; an approximate index would pay for its speed with rebuilds.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int64

from phoenix.index.device import DeviceSlab
from phoenix.index.host import HostSlab
from phoenix.index.masks import Mask, Traits

__all__ = ["Mask", "Traits", "VectorIndex"]


class Slab(Protocol):
    """The vectors of one model version. One writer at a time; any number of searches at any time."""

    def __len__(self) -> int:
        """How many posts there are."""
        ...

    @property
    def ids(self) -> Int64[np.ndarray, " n"]:
        """The ids of all posts, in no order."""
        ...

    def holds(self, ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which posts are there."""
        ...

    def upsert(self, ids: Int64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n d"], traits: Traits) -> None:
        """Insert posts, or replace them; of an id named twice the last one stays."""
        ...

    def vectors(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n d"]:
        """The vectors of posts as they are stored, zeros for those that are not there; not beside a writer."""
        ...

    def describe(self, ids: Int64[np.ndarray, " n"], traits: Traits) -> None:
        """Replace what masks look at, where the posts are there; of an id named twice the last one stays."""
        ...

    def remove(self, ids: Int64[np.ndarray, " n"]) -> None:
        """Forget posts; those that are not there do no harm."""
        ...

    def warm_up(self, batches: Sequence[int], k: int) -> None:
        """Compile what searches by these numbers of queries need; the vectors stay as they are."""
        ...

    def search(
        self, queries: Float32[np.ndarray, "B d"], k: int, masks: Sequence[Mask]
    ) -> tuple[Int64[np.ndarray, "B k"], Float32[np.ndarray, "B k"]]:
        """As `VectorIndex.search` says."""
        ...


def slab_for_this_machine(dim: int) -> Slab:
    """On accelerators where there are any, else in the memory of the host."""
    return HostSlab(dim) if jax.default_backend() == "cpu" else DeviceSlab(dim)


class VectorIndex:
    """Unit vectors by post id. Every method may be called from any thread; a search waits for nobody.

    Args:
        slab: makes the place for a version's vectors, of a width.

    """

    def __init__(self, slab: Callable[[int], Slab] = slab_for_this_machine) -> None:
        self._new_slab = slab
        self._slabs: dict[str, Slab] = {}
        self._widths: dict[str, int] = {}
        self._writing = threading.Lock()

    def warm_up(self, dim: int, batches: Sequence[int], k: int) -> None:
        """Have compiled what the first searches would wait for: k results for these numbers of queries, in width."""
        self._new_slab(dim).warm_up(batches, k)

    def __len__(self) -> int:
        """How many posts have a vector, of whichever version."""
        with self._writing:
            slabs = list(self._slabs.values())
            if len(slabs) == 1:
                return len(slabs[0])
            return len(np.unique(np.concatenate([np.zeros(0, np.int64), *(slab.ids for slab in slabs)])))

    def upsert(
        self,
        ids: Int64[np.ndarray, " n"],
        vectors: Float32[np.ndarray, "n d"],
        version: str,
        traits: Traits | None = None,
    ) -> None:
        """Insert vectors, or replace those of the same version; of an id named twice the last one stays.

        The first vectors of a version decide how wide its vectors are.

        Raises:
            ValueError: where the shapes do not belong together, or a vector has a component that is no number.

        """
        dim = self._widths.get(version) or int(vectors.shape[-1])
        if vectors.shape != (len(ids), dim):
            raise ValueError(f"vectors of shape {vectors.shape} for {len(ids)} ids; ({len(ids)}, {dim}) is wanted")
        if not np.isfinite(vectors).all():
            raise ValueError("vectors must be finite")
        if not np.all(ids):
            raise ValueError("id 0 is no post")
        ids, vectors = np.ascontiguousarray(ids, np.int64), np.ascontiguousarray(vectors, np.float32)
        with self._writing:
            slab = self._slabs.get(version)
            if slab is None:
                slab = self._new_slab(dim)
            slab.upsert(ids, vectors, traits or Traits.unknown(len(ids)))
            self._slabs[version], self._widths[version] = slab, dim

    def count(self, version: str) -> int:
        """How many posts have a vector of this version."""
        slab = self._slabs.get(version)
        return 0 if slab is None else len(slab)

    def holds(self, ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which posts have a vector, of whichever version."""
        with self._writing:
            held = np.zeros(len(ids), np.bool_)
            for slab in self._slabs.values():
                held |= slab.holds(ids)
            return held

    def lacking(
        self, version: str, other: str, among: Int64[np.ndarray, " n"] | None = None
    ) -> Int64[np.ndarray, " m"]:
        """The posts, of all or among some, that have a vector of another version, and none of this one."""
        with self._writing:
            slab, beside = self._slabs.get(version), self._slabs.get(other)
            if beside is None:
                return np.zeros(0, np.int64)
            ids = beside.ids if among is None else among[beside.holds(among)]
            return ids if slab is None else ids[~slab.holds(ids)]

    def vectors(self, ids: Int64[np.ndarray, " n"], version: str) -> Float32[np.ndarray, "n d"]:
        """The vectors of posts as that version has them, zeros where it has none; waits for a writer.

        Of a version that has no vectors at all nobody knows the width: it is 0.
        """
        with self._writing:
            slab = self._slabs.get(version)
            if slab is None:
                return np.zeros((len(ids), 0), np.float32)
            return slab.vectors(np.ascontiguousarray(ids, np.int64))

    def describe(self, ids: Int64[np.ndarray, " n"], traits: Traits) -> None:
        """Replace what masks look at, in every version, of the posts that have a vector."""
        with self._writing:
            for slab in self._slabs.values():
                slab.describe(ids, traits)

    def remove(self, ids: Int64[np.ndarray, " n"], version: str | None = None) -> None:
        """Forget posts, in every version or in one; those that are not there do no harm."""
        with self._writing:
            for name, slab in self._slabs.items():
                if version in (None, name):
                    slab.remove(ids)

    def forget(self, version: str) -> None:
        """Give back the vectors of a version; a search that is under way ends as it began."""
        with self._writing:
            self._slabs.pop(version, None)
            self._widths.pop(version, None)

    def search(
        self,
        queries: Float32[np.ndarray, "B d"],
        k: int,
        version: str,
        masks: Sequence[Mask] | None = None,
    ) -> tuple[Int64[np.ndarray, "B k"], Float32[np.ndarray, "B k"]]:
        """The k posts with the greatest inner product for each query, best first, equal ones by descending id.

        Args:
            queries: a row each.
            k: results for each.
            version: of the model that made the queries.
            masks: one for each query; what they leave out takes no place among the k.

        Returns:
            ids and scores; id -1 with score -inf where fewer than k posts of that version may be found.

        """
        slab = self._slabs.get(version)
        if slab is None:
            return np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        return slab.search(queries, k, masks or [Mask()] * len(queries))
