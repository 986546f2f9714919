"""Which rows of the store the posts of an author stand in, for thousands of authors at once.

Rows sorted by author, and a short unsorted tail of rows written since they were last sorted: a write is an append, a
read is two binary searches per author and one look over the tail.
"""

import numpy as np
from jaxtyping import Int64

_MIN_TAIL = 4096
_TAIL_SHARE = 16


class AuthorIndex:
    """Rows by author. What a row holds now is told by the author column: removed rows need no entry taken out."""

    def __init__(self) -> None:
        self._authors = np.zeros(0, np.int64)
        self._rows = np.zeros(0, np.int64)
        self._tail: list[int] = []

    def add(self, rows: list[int], author_column: Int64[np.ndarray, " capacity"]) -> None:
        """Enter rows that have just been written."""
        self._tail += rows
        if len(self._tail) > max(_MIN_TAIL, len(self._rows) // _TAIL_SHARE):
            self._sort(author_column)

    def rows_of(
        self, authors: Int64[np.ndarray, " m"], author_column: Int64[np.ndarray, " capacity"]
    ) -> Int64[np.ndarray, " n"]:
        """The rows that now hold a post of one of the authors, each once, in no useful order."""
        first = np.searchsorted(self._authors, authors, "left")
        last = np.searchsorted(self._authors, authors, "right")
        entries = _spans(first, last - first)
        rows = self._rows[entries]
        rows = rows[author_column[rows] == self._authors[entries]]
        tail = np.array(self._tail, np.int64)
        # a row that was freed and taken again by the same author has two entries
        return np.unique(np.concatenate([rows, tail[np.isin(author_column[tail], authors)]]))

    def _sort(self, author_column: Int64[np.ndarray, " capacity"]) -> None:
        rows = np.flatnonzero(author_column)
        self._rows = rows[np.argsort(author_column[rows], kind="stable")]
        self._authors = author_column[self._rows]
        self._tail = []


def _spans(first: Int64[np.ndarray, " m"], lengths: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " n"]:
    """The integers of many ranges, one after another."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(first - before, lengths) + np.arange(lengths.sum())
