"""The counts of posts that a store does not have: they wait for their posts, or for the tombstone of their counts."""

import logging
from typing import Final

import numpy as np
from jaxtyping import Int32, Int64

from thunder_ingest.counts.stored_totals import PostTotals
from thunder_ingest.kernels.id_table import IdTable, find_indices, id_table, with_room
from thunder_ingest.posts.rows import claim_rows, first_seen, forget

log = logging.getLogger(__name__)

MAX_POSTS: Final = 1_000_000
"""Posts at most, about 100 bytes each; above that number the ones without an event for longest are dropped."""
_FIRST_ROWS: Final = 64


class EarlyCounts:
    """Totals by post id. The newest of a post wins, the later one at equal times."""

    def __init__(self) -> None:
        self._ids: IdTable = id_table()
        self._totals = PostTotals(_FIRST_ROWS)
        self._post_id = np.zeros(_FIRST_ROWS, np.int64)  # 0: the row is free

    def __len__(self) -> int:
        return int(self._ids.used[0])

    def put(
        self, post_ids: Int64[np.ndarray, " n"], totals: Int32[np.ndarray, "n 20"], at: Int64[np.ndarray, " n"]
    ) -> None:
        """Write the totals of posts, each once."""
        is_new, rows = np.empty(len(post_ids), np.bool_), np.empty(len(post_ids), np.int64)
        first_seen(self._ids, post_ids, is_new)
        self._ids = with_room(self._ids, int(is_new.sum()))
        claim_rows(self._ids, post_ids, is_new, self._free(int(is_new.sum())), rows)
        self._post_id[rows] = post_ids
        newer = np.flatnonzero(is_new | (at >= self._totals.at[rows]))
        self._totals.put(rows[newer], totals[newer], at[newer])
        if len(self) > MAX_POSTS:
            log.warning("counts of %d posts that are not stored; the oldest are dropped", len(self))
            held = np.flatnonzero(self._post_id)
            oldest_first = held[np.argsort(self._totals.at[held], kind="stable")]
            self._drop(oldest_first[: len(held) - MAX_POSTS * 7 // 8])

    def pop(
        self, post_ids: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " k"], Int32[np.ndarray, "k 20"], Int64[np.ndarray, " k"]]:
        """Take out some posts; returns the indexes in `post_ids` of those that were found, their totals and times."""
        rows = np.empty(len(post_ids), np.int64)
        find_indices(self._ids.keys, self._ids.values, post_ids, rows)
        found = np.flatnonzero(rows >= 0)
        rows = rows[found]
        totals, at = self._totals.take(rows), self._totals.at[rows]
        self._drop(rows)
        return found, totals, at

    def expire(self, oldest_at: int) -> None:
        """Drop posts without an event since a time."""
        self._drop(np.flatnonzero((self._post_id != 0) & (self._totals.at < oldest_at)))

    def _drop(self, rows: Int64[np.ndarray, " n"]) -> None:
        forget(self._ids, self._post_id[rows])
        self._totals.clear(rows)
        self._post_id[rows] = 0

    def _free(self, n: int) -> Int64[np.ndarray, " n"]:
        """The first free rows."""
        free = np.flatnonzero(self._post_id == 0)
        if len(free) < n:
            rows = max(2 * len(self._post_id), len(self._post_id) + n)
            self._totals.grow(rows)
            self._post_id = np.concatenate([self._post_id, np.zeros(rows - len(self._post_id), np.int64)])
            free = np.flatnonzero(self._post_id == 0)
        return free[:n]
