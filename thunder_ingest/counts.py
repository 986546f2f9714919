"""Engagement counts per post: sums of events, kept by the engagements flow and delivered to the workers."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thunder_ingest.events import ACTION_INDEX, ACTIONS, IMPRESSION, Engagement, EngagementEvent, GraphEvent, PostCounts
from thunder_ingest.ids import id64

COLUMNS = len(ACTIONS) + 1
"""A count for each of ACTIONS, then impressions; that of `dwell_time` is the sum of dwell in milliseconds."""

DWELL_TIME = ACTION_INDEX["dwell_time"]


class Change(NamedTuple):
    """What a batch adds to one post: `totals` int64 [COLUMNS], negative where actions were undone."""

    post_id: int
    at: int
    totals: NDArray[np.int64]


def changes_of(events: Iterable[EngagementEvent | GraphEvent]) -> list[Change]:
    """Sum events by post; events of the social graph count nothing."""
    sums: dict[int, NDArray[np.int64]] = {}
    latest: dict[int, int] = {}
    for event in events:
        if isinstance(event, GraphEvent):
            continue
        post_id = id64(event.post_id)
        totals = sums.setdefault(post_id, np.zeros(COLUMNS, np.int64))
        column, amount = _amount(event)
        totals[column] += amount
        latest[post_id] = max(latest.get(post_id, 0), event.at)
    return [Change(post_id, latest[post_id], totals) for post_id, totals in sums.items()]


def _amount(event: EngagementEvent) -> tuple[int, int]:
    if not isinstance(event, Engagement):
        return IMPRESSION, 1
    column = ACTION_INDEX[event.action]
    amount = (event.dwell_ms or 0) if column == DWELL_TIME else 1
    return column, -amount if event.undo else amount


class CountTable:
    """Running totals of the posts of one shard; forgets a post that nobody has engaged with for `max_age_ms`."""

    def __init__(self, max_age_ms: int, snapshot: dict[int, tuple[int, bytes]] | None = None) -> None:
        self._max_age_ms = max_age_ms
        self._totals = {
            post_id: (at, np.frombuffer(totals, np.int64).copy()) for post_id, (at, totals) in (snapshot or {}).items()
        }
        self._changed: set[int] = set(self._totals)  # what the last process had not written yet is not known
        self._newest_at = max((at for at, _ in self._totals.values()), default=0)

    def add(self, changes: Iterable[Change]) -> None:
        """Add changes to the totals."""
        for post_id, at, amounts in changes:
            known_at, totals = self._totals.get(post_id, (0, None))
            self._totals[post_id] = (max(at, known_at), amounts if totals is None else totals + amounts)
            self._newest_at = max(self._newest_at, at)
            self._changed.add(post_id)

    def drain(self) -> list[PostCounts]:
        """The totals that have changed since the last call, floored at zero: an undo may overtake its action."""
        records = [
            PostCounts(post_id=post_id, at=self._totals[post_id][0], totals=self._totals[post_id][1].clip(0).tolist())
            for post_id in sorted(self._changed)
        ]
        self._changed.clear()
        self._forget()
        return records

    def snapshot(self) -> dict[int, tuple[int, bytes]]:
        """An immutable copy of the totals."""
        return {post_id: (at, totals.tobytes()) for post_id, (at, totals) in self._totals.items()}

    def _forget(self) -> None:
        oldest = self._newest_at - self._max_age_ms
        for post_id in [post_id for post_id, (at, _) in self._totals.items() if at < oldest]:
            del self._totals[post_id]
