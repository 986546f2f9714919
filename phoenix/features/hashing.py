"""The hashing trick (Weinberger et al. 2009): rows of a fixed-size embedding table for any 64-bit id.

Several independent hash functions map each id, as in hash embeddings (Svenstrup et al. 2017). Two ids sometimes share
one row and hardly ever all rows, so the model can distinguish them. Row 0 is reserved for id 0, the absent id.
"""

from typing import Final

import numpy as np
from jaxtyping import Int32, Integer, UInt64

from thunder_ingest.kernels.hashing import GOLDEN, splitmix64

HASHES: Final = 2
"""Rows per id."""
USER_SEED, POST_SEED, AUTHOR_SEED, TOKEN_SEED = range(1, 5)
"""Each kind of id has its own family of hash functions, so that user 7 and post 7 get independent rows."""


def hash_rows(
    ids: Integer[np.ndarray, "..."], buckets: int, hashes: int = HASHES, seed: int = 0
) -> Int32[np.ndarray, "... hashes"]:
    """The rows of ids in a table of `buckets` rows: 1 … buckets−1, and 0 for id 0.

    Each function computes id · scale + bias modulo 2⁶⁴, mixes the bits with the finaliser of SplitMix64 (Steele et al.
    2014), and scales the upper 32 bits down to the table. The finaliser spreads ids that differ in few bits.

    Args:
        ids: int64 or uint32; 0 for an absent id.
        buckets: rows of the table, row 0 included; 2 … 2³¹.
        hashes: rows per id.
        seed: the family of hash functions.

    Raises:
        ValueError: `buckets` is out of range.

    """
    if not 2 <= buckets <= 2**31:
        raise ValueError(f"a table of {buckets} rows; 2 to 2^31 are possible")
    unsigned = ids.astype(np.uint64)[..., None]
    scale, bias = _coefficients(hashes, seed)
    mixed = splitmix64(unsigned * scale + bias)
    rows = ((mixed >> np.uint64(32)) * np.uint64(buckets - 1) >> np.uint64(32)) + np.uint64(1)
    return np.where(unsigned == 0, np.uint64(0), rows).astype(np.int32)


def collisions(
    ids: Integer[np.ndarray, "..."], buckets: int, hashes: int = HASHES, seed: int = 0
) -> tuple[float, float]:
    """The share of ids that share at least one row with another id, and the share of ids that share all their rows.

    The other rows distinguish an id of the first kind. Only the combination of rows can distinguish one of the second.
    """
    rows = hash_rows(np.setdiff1d(ids, 0), buckets, hashes, seed)
    if not len(rows):
        return 0.0, 0.0
    rows.sort(axis=1)
    repeated = np.diff(rows, axis=1, prepend=0) == 0  # an id whose hash functions agree counts once in that row
    shared = np.bincount(rows[~repeated], minlength=buckets)[rows] > 1
    return float(shared.any(axis=1).mean()), float(shared.all(axis=1).mean())


def _coefficients(hashes: int, seed: int) -> tuple[UInt64[np.ndarray, " hashes"], UInt64[np.ndarray, " hashes"]]:
    stream = np.arange(1, 2 * hashes + 1, dtype=np.uint64) + np.uint64(seed << 16)
    drawn = splitmix64(stream * GOLDEN)
    return drawn[:hashes] | np.uint64(1), drawn[hashes:]  # an odd scale is a bijection
