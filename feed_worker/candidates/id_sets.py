"""Membership of ids in sorted sets, for whole columns at once."""

import numpy as np
from numpy.typing import NDArray


def contains(sorted_ids: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[n] which of `ids` [n] are among `sorted_ids` (ascending); 0, which is no id, never is."""
    if not len(sorted_ids):
        return np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    return np.asarray((sorted_ids[places] == ids) & (ids != 0))


def union(sorted_ids: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ids in either, sorted and unique; `sorted_ids` already are, and are often all there is."""
    return np.union1d(sorted_ids, others) if len(others) else sorted_ids


def first_of_each(keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[n] which of `keys` [n] have not occurred before."""
    first = np.zeros(len(keys), np.bool_)
    first[np.unique(keys, return_index=True)[1]] = True
    return first
