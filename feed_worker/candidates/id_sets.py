"""Membership of ids in sorted sets, for whole columns at once."""

import numpy as np
from numpy.typing import NDArray


def contains(sorted_ids: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[n] True for each of `ids` [n] that is in `sorted_ids` (ascending); 0 is no id and never in it."""
    if not len(sorted_ids):
        return np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    return np.asarray((sorted_ids[places] == ids) & (ids != 0))


def union(sorted_ids: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sorted unique ids of both; `sorted_ids` itself if `others` is empty, which is common."""
    return np.union1d(sorted_ids, others) if len(others) else sorted_ids


def first_of_each(keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[n] True at the first occurrence of each of `keys` [n]."""
    first = np.zeros(len(keys), np.bool_)
    first[np.unique(keys, return_index=True)[1]] = True
    return first
