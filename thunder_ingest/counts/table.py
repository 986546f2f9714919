"""The table of engagement counts per post: the state of the engagements flow, from which it writes `post-counts`.

One account is one voice per post and action. Counts are a function of the set of events, so repetition and disorder
change nothing (`voices`).
- A discrete action counts once for an account while its newest event is not an undo. An undo without an action counts
  nothing, and takes back no other account's action.
- `dwell_time` is the sum over accounts of the dwell of the newest event of each. A sum over events would let one
  account dominate it.
- An impression counts once for an account, too, however many requests showed the post. So a rate per impression relates
  accounts to accounts, and one account cannot lower it by many impressions.

glossary of shapes: n changes, p posts of a table (rows), q rows before a move.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Int64

from thunder_ingest.counts.columns import DWELL_TIME
from thunder_ingest.counts.voices import (
    AMOUNT,
    COLUMN,
    KEY,
    POST,
    ROW,
    SAMPLE,
    STAMP,
    PostColumns,
    enter,
    join,
    keys_of,
    levels_of,
    move,
    places_for,
    post_columns,
    rows_of,
    voices,
)
from thunder_ingest.events import EngagementEvent, GraphEvent, Impression, PostCounts
from thunder_ingest.events.engagement_columns import EngagementColumns, engagement_columns
from thunder_ingest.kernels.id_table import id_table, with_room
from thunder_ingest.posts.author_index import longer

Changes: TypeAlias = Int64[np.ndarray, "n 5"]
"""A row an event, with the columns POST, KEY, STAMP, COLUMN and AMOUNT of `voices`."""

_FIRST_ROWS: Final = 64
_FORGOTTEN_SHARE: Final = 8  # rows are moved together when one in so many is no longer needed
_PIECE: Final = 16_384  # rows joined between two checks of the sample sizes, which uint16 holds


class Drained(NamedTuple):
    """What changed in a table since the last call."""

    records: list[PostCounts]
    """The totals of posts with new events."""
    forgotten: list[int]
    """The ids of posts that were dropped: their records get tombstones."""
    changes: Changes
    """The voices that are new, and the levels of changed posts: joined into another table, they lead to this state."""


def changes_of(events: Iterable[EngagementEvent | GraphEvent]) -> Changes:
    """The changes by events; events of the social graph change no count."""
    return changes_of_columns(engagement_columns(events))


def changes_of_columns(columns: EngagementColumns) -> Changes:
    """The changes by engagements and impressions."""
    changes = np.empty((len(columns.user), ROW), np.int64)
    changes[:, POST], changes[:, COLUMN] = columns.post_id, columns.action
    changes[:, KEY] = keys_of(columns.post_id, columns.action, columns.account_ids())
    changes[:, STAMP] = columns.at * 2 + columns.undo
    done = np.where(columns.action == DWELL_TIME, columns.dwell_ms, 1)
    changes[:, AMOUNT] = np.where(columns.undo == 1, 0, done)
    return changes


def warm_up() -> None:
    """Compile the kernels, or load them from the cache; the first time takes seconds."""
    table = CountTable(1, sample=1)
    table.add(changes_of(Impression(user_id=user, post_id=1, author_id=1, at=1) for user in (1, 2, 3)), 1)
    table.drain(3)
    table.add(changes_of(Impression(user_id=1, post_id=post, author_id=1, at=9) for post in range(1, 3_000)), 9)


def by_shard(changes: Changes, shards: int) -> dict[int, Changes]:
    """The changes of each shard that has any; a post belongs to the shard `post_id % shards`."""
    if not len(changes):
        return {}
    shard = changes[:, POST] % shards
    order = np.argsort(shard, kind="stable")
    numbers, starts = np.unique(shard[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(changes[order], starts[1:]), strict=True))


class CountTable:
    """The voices and counts of the posts of one shard.

    A voice takes 24 bytes, 38 to 77 with the free places of the table, a post 150 bytes. A post and action has at most
    `sample` voices, so a post takes at most 3 MB. A post is dropped `max_age_ms` after its newest event, with all its
    voices. An event of that age counts nothing, whether its post is in the table or not: so the counts of a log that is
    read again are the same. Above `max_voices` the posts without an event for longest are dropped before their time.
    """

    def __init__(self, max_age_ms: int, max_voices: int = 2**31, sample: int = SAMPLE) -> None:
        self._max_age_ms, self._max_voices, self._sample = max_age_ms, max_voices, sample
        self._rows = id_table()
        self._voices = voices()
        self._posts = post_columns(_FIRST_ROWS)
        self._new: list[Changes] = []
        self._forgotten: list[int] = []
        self._crowded = False

    def __len__(self) -> int:
        """The number of posts."""
        return int(self._rows.used[0])

    @property
    def voices(self) -> int:
        """The number of voices."""
        return int(self._voices.used[0])

    def add(self, changes: Changes, now_ms: int) -> None:
        """Join the changes by events."""
        for begin in range(0, len(changes), _PIECE):
            piece = changes[begin : begin + _PIECE]
            is_new = self._join(piece, now_ms - self._max_age_ms)
            if is_new.any():
                self._new.append(piece[is_new])
            if self._crowded:
                self._thin()

    def restore(self, changes: Changes) -> None:
        """Join the `changes` of an earlier table, in any order, any number of times; call `restored` after the last."""
        for begin in range(0, len(changes), _PIECE):
            self._join(changes[begin : begin + _PIECE], 0)

    def restored(self) -> None:
        """Finish the restoration.

        Totals that an earlier process did not write are those of events whose offsets it did not commit. These events
        are added again, and a post with an event is written, even if the event changes nothing.
        """
        self._move(np.arange(len(self._posts.at)), self.voices)  # drops what the levels exclude
        self._thin()
        self._posts.changed[:] = False

    def drain(self, now_ms: int) -> Drained:
        """The changes since the last call."""
        self._forget(now_ms - self._max_age_ms)
        rows = np.flatnonzero(self._posts.changed[: len(self)])
        changes = np.concatenate([*self._new, levels_of(self._posts, rows)])
        drained = Drained(self._records(rows), self._forgotten, changes)
        self._posts.changed[rows] = False
        self._new, self._forgotten = [], []
        return drained

    def all_changes(self) -> Changes:
        """Rows that lead an empty table to the state of this one."""
        return np.concatenate([rows_of(self._voices, self._posts), levels_of(self._posts, np.arange(len(self)))])

    def _join(self, changes: Changes, oldest_at: int) -> Bool[np.ndarray, " n"]:
        n = len(changes)
        self._rows = with_room(self._rows, n)
        if len(self) + n > len(self._posts.at):
            rows = max(len(self) + n, 2 * len(self._posts.at))
            self._posts = PostColumns(*(longer(column, rows) for column in self._posts))
        if places_for(self.voices + n) > len(self._voices.entries):
            self._move(np.arange(len(self._posts.at)), self.voices + n)
        is_new = np.zeros(n, np.bool_)
        self._crowded |= join(self._rows, self._voices, self._posts, changes, oldest_at, self._sample, is_new)
        return is_new

    def _thin(self) -> None:
        """Raise levels until no post and action has more than `sample` voices."""
        same = np.arange(len(self._posts.at))
        while (over := self._posts.kept > self._sample).any():
            self._posts.level[over] += 1
            self._move(same, self.voices)
        self._crowded = False

    def _move(self, row_of: Int64[np.ndarray, " q"], room: int) -> None:
        into = voices(places_for(room))
        move(self._voices, into, self._posts, row_of)
        self._voices = into

    def _records(self, rows: Int64[np.ndarray, " r"]) -> list[PostCounts]:
        posts = self._posts
        totals = posts.standing[rows].astype(np.int64)
        totals[:, DWELL_TIME] = posts.dwell_ms[rows]
        totals <<= posts.level[rows]
        columns = posts.post_id[rows].tolist(), posts.at[rows].tolist(), totals.tolist()
        return [PostCounts(post_id=post_id, at=at, totals=each) for post_id, at, each in zip(*columns, strict=True)]

    def _forget(self, oldest_at: int) -> None:
        needed = self._posts.at[: len(self)] >= oldest_at
        if self.voices > self._max_voices:
            needed &= self._fitting()
        elif (~needed).sum() * _FORGOTTEN_SHARE <= len(needed):
            return
        kept = np.flatnonzero(needed)
        self._forgotten += self._posts.post_id[: len(self)][~needed].tolist()
        row_of = np.full(len(self._posts.at), -1)
        row_of[kept] = np.arange(len(kept))
        self._posts = PostColumns(*(longer(column[kept], max(len(kept), _FIRST_ROWS)) for column in self._posts))
        self._rows = with_room(id_table(), len(kept))
        enter(self._rows, self._posts.post_id[: len(kept)])
        self._move(row_of, self.voices)

    def _fitting(self) -> Bool[np.ndarray, " p"]:
        """True for the posts with the newest events that have at most 7/8 of `max_voices` together."""
        newest_first = np.argsort(-self._posts.at[: len(self)], kind="stable")
        held = np.cumsum(self._posts.kept[newest_first].sum(axis=1))
        fitting = np.zeros(len(self), np.bool_)
        fitting[newest_first[held <= self._max_voices * 7 // 8]] = True
        return fitting
