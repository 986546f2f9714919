"""Hashed embedding rows: how any 64-bit id finds its rows in a table of fixed size.

An id is mapped by `hashes` independent functions. Two ids share one row now and then, hardly ever all of them, so the
model can still tell them apart. Row 0 is kept for id 0, which means that there is nothing.
"""

from typing import Any, Final

import numpy as np
from jaxtyping import Int32, Integer, UInt64

HASHES: Final = 2
"""Rows per id."""
USER_SEED, POST_SEED, AUTHOR_SEED, TOKEN_SEED = range(1, 5)
"""One kind of id, one family of functions: user 7 and post 7 have nothing in common."""

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def hash_rows(
    ids: Integer[np.ndarray, "..."], buckets: int, hashes: int = HASHES, seed: int = 0
) -> Int32[np.ndarray, "... hashes"]:
    """The rows of ids in a table of `buckets` rows: 1 … buckets−1, and 0 for id 0.

    Each function is id · scale + bias modulo 2⁶⁴, scrambled (SplitMix64's finaliser, so that ids which differ in
    their high or low bits alone spread too), its upper half scaled down to the table.

    Args:
        ids: int64 or uint32; 0 where there is none.
        buckets: rows of the table, the reserved one included; at most 2³¹.
        hashes: how many rows per id.
        seed: which family of functions.

    """
    if not 2 <= buckets <= 2**31:
        raise ValueError(f"a table of {buckets} rows; 2 to 2^31 are possible")
    unsigned = ids.astype(np.uint64)[..., None]
    scale, bias = _coefficients(hashes, seed)
    mixed = _mix(unsigned * scale + bias)
    rows = ((mixed >> np.uint64(32)) * np.uint64(buckets - 1) >> np.uint64(32)) + np.uint64(1)
    return np.where(unsigned == 0, np.uint64(0), rows).astype(np.int32)


def collisions(
    ids: Integer[np.ndarray, "..."], buckets: int, hashes: int = HASHES, seed: int = 0
) -> tuple[float, float]:
    """Which share of some ids has a row in common with another of them, and which share has no row of its own.

    The former are told apart by their other rows; of the latter only the combination of rows can be their own.
    """
    rows = hash_rows(np.setdiff1d(ids, 0), buckets, hashes, seed)
    if not len(rows):
        return 0.0, 0.0
    rows.sort(axis=1)
    again = np.diff(rows, axis=1, prepend=0) == 0  # an id whose functions agree counts once in that row
    shared = np.bincount(rows[~again], minlength=buckets)[rows] > 1
    return float(shared.any(axis=1).mean()), float(shared.all(axis=1).mean())


def _coefficients(hashes: int, seed: int) -> tuple[UInt64[np.ndarray, " hashes"], UInt64[np.ndarray, " hashes"]]:
    stream = np.arange(1, 2 * hashes + 1, dtype=np.uint64) + np.uint64(seed << 16)
    drawn = _mix(stream * _GOLDEN)
    return drawn[:hashes] | np.uint64(1), drawn[hashes:]  # an odd scale loses no id


def _mix(values: UInt64[np.ndarray, "..."]) -> Any:
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
