"""The retrieval index: exact top-k over the vectors of all servable posts, insertable and deletable at once.

A model version has a slab of its own, so that a new version's vectors can arrive while the old one is still asked:
vectors of two versions are never compared. Exact because a post published a moment ago must be found a moment later;
an approximate index would pay for its speed with rebuilds.
"""

import threading
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32, Int64

_FIRST_CAPACITY = 1_024


class VectorIndex:
    """Unit vectors by post id. Every method may be called from any thread.

    Args:
        dim: width of the vectors.

    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._slabs: dict[str, _Slab] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many posts have a vector, of whichever version."""
        with self._lock:
            slabs = list(self._slabs.values())
            return len(slabs[0]) if len(slabs) == 1 else len(set().union(*(slab.slots for slab in slabs)))

    def upsert(self, ids: Int64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n d"], version: str) -> None:
        """Insert vectors, or replace those of the same version; of an id named twice the last one stays.

        Raises:
            ValueError: where the shapes do not belong together.

        """
        if vectors.shape != (len(ids), self._dim):
            raise ValueError(
                f"vectors of shape {vectors.shape} for {len(ids)} ids; ({len(ids)}, {self._dim}) is wanted"
            )
        with self._lock:
            self._slabs.setdefault(version, _Slab(self._dim)).upsert(ids, vectors)

    def remove(self, ids: Int64[np.ndarray, " n"]) -> None:
        """Forget posts, in every version; those that are not there do no harm."""
        with self._lock:
            for slab in self._slabs.values():
                slab.remove(ids)

    def drop_versions_except(self, versions: Iterable[str]) -> None:
        """Forget whole versions, those no longer served."""
        wanted = set(versions)
        with self._lock:
            self._slabs = {version: slab for version, slab in self._slabs.items() if version in wanted}

    def search(
        self, queries: Float32[np.ndarray, "B d"], k: int, version: str
    ) -> tuple[Int64[np.ndarray, "B k"], Float32[np.ndarray, "B k"]]:
        """The k posts with the greatest inner product for each query, best first, equal ones by descending id.

        Returns:
            ids and scores; id -1 with score -inf where there are fewer than k posts of that version.

        """
        ids = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        with self._lock:
            slab = self._slabs.get(version)
            if slab is not None and len(slab) and k:
                found = min(k, len(slab))
                slab.search_into(queries, ids[:, :found], scores[:, :found])
        return ids, scores


class _Slab:
    """The vectors of one version, dense: a removed one's place is taken by the last."""

    def __init__(self, dim: int) -> None:
        self.slots: dict[int, int] = {}
        self._ids = np.empty(_FIRST_CAPACITY, np.int64)
        self._vectors = np.empty((_FIRST_CAPACITY, dim), np.float32)

    def __len__(self) -> int:
        return len(self.slots)

    def upsert(self, ids: Int64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n d"]) -> None:
        slots = [self.slots.setdefault(id_, len(self.slots)) for id_ in ids.tolist()]
        self._grow_to(len(self.slots))
        self._ids[slots] = ids
        self._vectors[slots] = vectors

    def remove(self, ids: Int64[np.ndarray, " n"]) -> None:
        for id_ in ids.tolist():
            slot = self.slots.pop(id_, None)
            if slot is not None and slot != (last := len(self.slots)):
                self._vectors[slot] = self._vectors[last]
                self._ids[slot] = self._ids[last]
                self.slots[int(self._ids[slot])] = slot

    def search_into(
        self,
        queries: Float32[np.ndarray, "B d"],
        ids: Int64[np.ndarray, "B k"],
        scores: Float32[np.ndarray, "B k"],
    ) -> None:
        products = queries @ self._vectors[: len(self)].T
        for row, of_query in enumerate(products):
            best = _best(of_query, self._ids[: len(self)], ids.shape[1])
            ids[row], scores[row] = self._ids[best], of_query[best]

    def _grow_to(self, size: int) -> None:
        capacity = len(self._ids)
        if size <= capacity:
            return
        while capacity < size:
            capacity *= 2
        grown_ids, grown_vectors = (
            np.empty(capacity, np.int64),
            np.empty((capacity, self._vectors.shape[1]), np.float32),
        )
        grown_ids[: len(self._ids)], grown_vectors[: len(self._ids)] = self._ids, self._vectors
        self._ids, self._vectors = grown_ids, grown_vectors


def _best(scores: Float32[np.ndarray, " n"], ids: Int64[np.ndarray, " n"], k: int) -> Int64[np.ndarray, " k"]:
    """The slots of the k best, in order; all that tie with the k-th take part, so that ids decide and not slots."""
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    slots = np.flatnonzero(scores >= kth)
    order = np.lexsort((-ids[slots], -scores[slots]))[:k]
    return slots[order]
