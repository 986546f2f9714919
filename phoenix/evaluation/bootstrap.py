"""Confidence intervals by the cluster bootstrap (Efron 1979): viewers are drawn with replacement.

Glossary of shapes:

    s: rows, one impression each
    v: viewers
    d: draws; the first is the original sample, so the first of figures [d] is the estimate itself
    c: draws of a chunk
    q: selected rows
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64
from msgspec import Struct

REPLICATES: Final = 1_000
"""Default number of draws: enough for two digits of an interval's width."""
_CELLS: Final = 4_000_000
"""Maximum number of draws × rows in memory: 16 MB as float32."""


class Estimate(Struct, frozen=True):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Float64[np.ndarray, " d"]) -> "Estimate":
        """Return the first figure with the percentiles 2.5 and 97.5 of the others, without undefined ones (NaN).

        If all draws are undefined, the interval is NaN, which is null in JSON.
        """
        drawn = figures[1:][np.isfinite(figures[1:])]
        low, high = np.percentile(drawn, (2.5, 97.5)).tolist() if len(drawn) else (np.nan, np.nan)
        return cls(float(figures[0]), low, high)


class Draws(NamedTuple):
    """The viewer of each row, and the multiplicity of each viewer in each draw."""

    viewer: Int64[np.ndarray, " s"]  # 0 … v−1
    weight: Float32[np.ndarray, "d v"]

    @classmethod
    def of(cls, viewer_id: Int64[np.ndarray, " s"], seed: int = 0, replicates: int = REPLICATES) -> "Draws":
        """Draw v viewers with replacement, `replicates` times. Raises ValueError without viewers."""
        ids, viewer = np.unique(viewer_id, return_inverse=True)
        if not len(ids):
            raise ValueError("no viewers to draw from")
        rng = np.random.default_rng(seed)
        weight = np.ones((1 + replicates, len(ids)), np.float32)
        for draw in weight[1:]:
            draw[:] = np.bincount(rng.integers(0, len(ids), len(ids)), minlength=len(ids))
        return cls(viewer, weight)

    def total(self, values: Float64[np.ndarray, "s ..."]) -> Float64[np.ndarray, "d ..."]:
        """Return the sums of columns over the rows of each draw."""
        by_viewer = np.zeros((self.weight.shape[1], *values.shape[1:]))
        np.add.at(by_viewer, self.viewer, values)
        totals: Float64[np.ndarray, "d ..."] = self.weight.astype(np.float64) @ by_viewer
        return totals

    def mean(self, values: Float64[np.ndarray, " s"]) -> Float64[np.ndarray, " d"]:
        """Return the means of a column over the rows of each draw."""
        means: Float64[np.ndarray, " d"] = self.total(values) / self.total(np.ones(len(values)))
        return means

    def by_row(self, rows: Int64[np.ndarray, " q"]) -> Iterator[tuple[slice, Float32[np.ndarray, "c q"]]]:
        """Iterate over chunks of draws: the slice of the draws, and the multiplicity of each row in each of them."""
        step = max(1, _CELLS // max(1, len(rows)))
        for start in range(0, len(self.weight), step):
            chunk = slice(start, min(start + step, len(self.weight)))
            yield chunk, self.weight[chunk][:, self.viewer[rows]]
