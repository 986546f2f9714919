"""Engagement counts of the stored posts, 64 bytes each: narrow columns, and a dictionary for the few large totals."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt16

from thunder_ingest.counts.columns import COUNT_COLUMNS
from thunder_ingest.events import PostCounts
from thunder_ingest.posts.author_index import longer
from thunder_ingest.posts.popularity import signals

_MAX_TOTAL: Final = 2**31 - 1
_WIDE: Final = 2
"""The last two totals, dwell time in milliseconds and impressions, have 32 bits: they are large for most posts."""
_ELSEWHERE: Final = np.iinfo(np.uint16).max


class PostTotals:
    """Totals by row. The last row stays zero, so row -1 reads as a post without counts."""

    def __init__(self, rows: int) -> None:
        self._small: UInt16[np.ndarray, "rows 18"] = np.zeros((rows, COUNT_COLUMNS - _WIDE), np.uint16)
        self._wide: Int32[np.ndarray, "rows 2"] = np.zeros((rows, _WIDE), np.int32)
        self._large: dict[int, Int32[np.ndarray, " totals"]] = {}  # rows in which a narrow total overflowed
        self.at: Int64[np.ndarray, " rows"] = np.zeros(rows, np.int64)
        self.signals: Float32[np.ndarray, "rows 3"] = np.zeros((rows, 3), np.float32)  # for the popularity of posts

    @property
    def impressions(self) -> Int32[np.ndarray, " rows"]:
        """The impressions of each post."""
        return self._wide[:, -1]

    def grow(self, rows: int) -> None:
        """Make room for more rows."""
        self._small, self._wide = longer(self._small, rows), longer(self._wide, rows)
        self.at, self.signals = longer(self.at, rows), longer(self.signals, rows)

    def clear(self, rows: Int64[np.ndarray, " n"]) -> None:
        """Clear the totals of rows."""
        if self._large:
            for row in rows[(self._small[rows] == _ELSEWHERE).any(axis=1)].tolist():
                del self._large[row]
        self._small[rows], self._wide[rows], self.at[rows], self.signals[rows] = 0, 0, 0, 0

    def put(
        self, rows: Int64[np.ndarray, " n"], totals: Int32[np.ndarray, "n 20"], at: Int64[np.ndarray, " n"]
    ) -> None:
        """Write the totals of rows, each row once, and the times of their newest events."""
        small = totals[:, :-_WIDE]
        large = np.flatnonzero((small >= _ELSEWHERE).any(axis=1))
        self.clear(rows)
        self._small[rows] = np.minimum(small, _ELSEWHERE)
        self._wide[rows] = totals[:, -_WIDE:]
        self._large.update(zip(rows[large].tolist(), totals[large], strict=True))
        self.signals[rows], self.at[rows] = signals(totals), at

    def take(self, rows: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, "n 20"]:
        """A copy of the totals of rows."""
        totals = np.empty((len(rows), COUNT_COLUMNS), np.int32)
        totals[:, :-_WIDE] = self._small[rows]
        totals[:, -_WIDE:] = self._wide[rows]
        if self._large:
            for place in np.flatnonzero((totals[:, :-_WIDE] == _ELSEWHERE).any(axis=1)).tolist():
                totals[place] = self._large[int(rows[place])]
        return totals


def as_array(records: Sequence[PostCounts]) -> Int32[np.ndarray, "n 20"]:
    """The totals of records, cut or zero-padded to 20 columns and clipped to int32."""
    filled = [record.totals[:COUNT_COLUMNS] + [0] * (COUNT_COLUMNS - len(record.totals)) for record in records]
    return np.clip(np.array(filled, np.int64).reshape(-1, COUNT_COLUMNS), 0, _MAX_TOTAL).astype(np.int32)
