"""The table of engagement counts per post: the state of the engagements flow, from which it writes `post-counts`.

glossary of shapes: n changes, p posts of a table (rows), c changes that are not zero.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from thunder_ingest.counts.columns import COUNT_COLUMNS, DWELL_TIME, IMPRESSIONS
from thunder_ingest.events import (
    ACTION_INDEX,
    Engagement,
    EngagementEvent,
    GraphEvent,
    Impression,
    PostCounts,
)
from thunder_ingest.events.ids import id64

_FIRST_ROWS: Final = 64
_FORGOTTEN_SHARE: Final = 8  # rows are moved together when one in so many is no longer needed


class Changes(NamedTuple):
    """The amounts that events add to posts, a row an event; an undo has a negative amount."""

    post_id: Int64[np.ndarray, " n"]
    at: Int64[np.ndarray, " n"]
    column: Int64[np.ndarray, " n"]
    amount: Int64[np.ndarray, " n"]

    def of_shards(self, shards: int) -> dict[int, "Changes"]:
        """The changes of each shard that has any; a post belongs to the shard `post_id % shards`."""
        if not len(self.post_id):
            return {}
        shard = self.post_id % shards
        order = np.argsort(shard, kind="stable")
        numbers, starts = np.unique(shard[order], return_index=True)
        columns = [np.split(values[order], starts[1:]) for values in self]
        return {int(number): Changes(*parts) for number, *parts in zip(numbers, *columns, strict=True)}


class Snapshot(NamedTuple):
    """The totals of a table for a recovery store: bytes of int64, without the zeros."""

    post_id: bytes  # [p]
    at: bytes  # [p]
    cell: bytes  # [c] row * COUNT_COLUMNS + column
    total: bytes  # [c]


def changes_of(events: Iterable[EngagementEvent | GraphEvent]) -> Changes:
    """The changes by events; events of the social graph change no count."""
    rows: list[int] = []  # end to end
    for event in events:
        column, amount = IMPRESSIONS, 1
        if type(event) is Engagement:
            column = ACTION_INDEX[event.action]
            if column == DWELL_TIME:
                amount = event.dwell_ms or 0
            if event.undo:
                amount = -amount
        elif type(event) is not Impression:
            continue
        post_id = event.post_id
        rows += post_id if type(post_id) is int else id64(post_id), event.at, column, amount
    return Changes(*np.array(rows, np.int64).reshape(-1, 4).T)


class CountTable:
    """Running totals of the posts of one shard; drops a post `max_age_ms` after its last engagement.

    A later event still counts while its post is in the table. For a dropped post it is ignored: the table would begin
    at zero, and its small total would replace the complete one downstream.
    """

    def __init__(self, max_age_ms: int, snapshot: Snapshot | None = None) -> None:
        self._max_age_ms = max_age_ms
        self._rows: dict[int, int] = {}
        self._post_id = np.zeros(_FIRST_ROWS, np.int64)
        self._at = np.zeros(_FIRST_ROWS, np.int64)
        self._totals = np.zeros((_FIRST_ROWS, COUNT_COLUMNS), np.int64)
        self._changed = np.zeros(_FIRST_ROWS, bool)
        self._newest_at = 0
        if snapshot is not None:
            post_id, at, cell, total = (np.frombuffer(column, np.int64) for column in snapshot)
            rows = self._rows_of(post_id)
            self._at[rows] = at
            self._newest_at = int(at.max(initial=0))
            self._totals.flat[cell] = total
            self._changed[rows] = True  # the changes that the last process had not written are unknown

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, changes: Changes) -> None:
        """Add changes to the totals; ignore changes that are too late."""
        self._newest_at = max(self._newest_at, int(changes.at.max(initial=0)))
        changes = self._in_time(changes)
        rows = self._rows_of(changes.post_id)
        np.add.at(self._totals, (rows, changes.column), changes.amount)
        np.maximum.at(self._at, rows, changes.at)
        self._changed[rows] = True

    def drain(self) -> list[PostCounts]:
        """The totals that changed since the last call; at least zero, since an undo may overtake its action."""
        rows = np.flatnonzero(self._changed)
        columns = self._post_id[rows].tolist(), self._at[rows].tolist(), self._totals[rows].clip(0).tolist()
        self._changed[:] = False
        self._forget()
        return [PostCounts(post_id=post_id, at=at, totals=totals) for post_id, at, totals in zip(*columns, strict=True)]

    def snapshot(self) -> Snapshot:
        """An immutable copy of the totals."""
        rows = np.flatnonzero(self._needed())
        totals = self._totals[rows].ravel()
        cell = np.flatnonzero(totals)
        return Snapshot(self._post_id[rows].tobytes(), self._at[rows].tobytes(), cell.tobytes(), totals[cell].tobytes())

    def _in_time(self, changes: Changes) -> Changes:
        late = np.flatnonzero(changes.at < self._newest_at - self._max_age_ms)
        forgotten = [index for index in late.tolist() if int(changes.post_id[index]) not in self._rows]
        return Changes(*(np.delete(column, forgotten) for column in changes)) if forgotten else changes

    def _needed(self) -> Bool[np.ndarray, " p"]:
        """True for rows of posts that are young enough or have unwritten changes."""
        used = slice(len(self._rows))
        at = self._at[used]
        return np.asarray((at >= at.max(initial=0) - self._max_age_ms) | self._changed[used])

    def _forget(self) -> None:
        needed = self._needed()
        kept = np.flatnonzero(needed)
        if (len(needed) - len(kept)) * _FORGOTTEN_SHARE <= len(needed):
            return
        columns = self._post_id[kept], self._at[kept], self._totals[kept], self._changed[kept]
        self._rows = {post_id: row for row, post_id in enumerate(columns[0].tolist())}
        self._post_id, self._at, self._totals, self._changed = columns

    def _rows_of(self, post_id: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The row of each post; a post without a row gets a new one."""
        rows = self._rows
        found = [rows.setdefault(each, len(rows)) for each in post_id.tolist()]
        index = np.array(found, np.int64)
        if len(rows) > len(self._at):
            self._grow(len(rows))
        self._post_id[index] = post_id
        return index

    def _grow(self, rows: int) -> None:
        more = max(rows, 2 * len(self._at), _FIRST_ROWS) - len(self._at)
        self._post_id = np.concatenate([self._post_id, np.zeros(more, np.int64)])
        self._at = np.concatenate([self._at, np.zeros(more, np.int64)])
        self._totals = np.concatenate([self._totals, np.zeros((more, COUNT_COLUMNS), np.int64)])
        self._changed = np.concatenate([self._changed, np.zeros(more, bool)])
