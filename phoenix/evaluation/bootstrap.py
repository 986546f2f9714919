"""Intervals by the bootstrap: viewers drawn with replacement, everything measured on each draw at once.

Glossary of shapes:

    n: rows
    v: viewers
    d: draws; the first is the viewers as they are, so the first of any figures [d] is the estimate itself
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64
from msgspec import Struct

REPLICATES: Final = 1_000
"""Enough for the second digit of an interval's width."""
_CELLS: Final = 4_000_000
"""Of draws times rows that are held at once: 16 MB as float32."""


class Estimate(Struct, frozen=True):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Float64[np.ndarray, " d"]) -> "Estimate":
        """The first figure, between the percentiles of the others; draws on which nothing could be said are left out.

        Where no draw says anything all three are NaN, which JSON has as null.
        """
        drawn = figures[1:][np.isfinite(figures[1:])]
        low, high = np.percentile(drawn, (2.5, 97.5)).tolist() if len(drawn) else (np.nan, np.nan)
        return cls(float(figures[0]), low, high)


class Draws(NamedTuple):
    """Which viewer each row is of, and how often each draw has each viewer."""

    viewer: Int64[np.ndarray, " n"]  # 0 … v−1
    weight: Float32[np.ndarray, "d v"]

    @classmethod
    def of(cls, viewer_id: Int64[np.ndarray, " n"], seed: int = 0, replicates: int = REPLICATES) -> "Draws":
        """Draw as many viewers as there are, `replicates` times; raises ValueError where there is none."""
        ids, viewer = np.unique(viewer_id, return_inverse=True)
        if not len(ids):
            raise ValueError("there is nobody to draw from")
        rng = np.random.default_rng(seed)
        weight = np.ones((1 + replicates, len(ids)), np.float32)
        for draw in weight[1:]:
            draw[:] = np.bincount(rng.integers(0, len(ids), len(ids)), minlength=len(ids))
        return cls(viewer, weight)

    def total(self, values: Float64[np.ndarray, "n ..."]) -> Float64[np.ndarray, "d ..."]:
        """The sums of a column, or of several, over the rows of each draw."""
        by_viewer = np.zeros((self.weight.shape[1], *values.shape[1:]))
        np.add.at(by_viewer, self.viewer, values)
        totals: Float64[np.ndarray, "d ..."] = self.weight.astype(np.float64) @ by_viewer
        return totals

    def mean(self, values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " d"]:
        """The means of a column over the rows of each draw."""
        means: Float64[np.ndarray, " d"] = self.total(values) / self.total(np.ones(len(values)))
        return means

    def by_row(self, rows: Int64[np.ndarray, " m"]) -> Iterator[tuple[slice, Float32[np.ndarray, "c m"]]]:
        """The weights of some rows, a few draws at a time: which draws, and how often each of them has each row."""
        step = max(1, _CELLS // max(1, len(rows)))
        for start in range(0, len(self.weight), step):
            chunk = slice(start, min(start + step, len(self.weight)))
            yield chunk, self.weight[chunk][:, self.viewer[rows]]
