"""Engagement counts of posts as they stood at a moment: what the store's running totals said then.

Glossary of shapes:

    n: rows of the log
    m: moments at which rows became known
    T: the 19 actions, then impressions

A row is counted once all that came of it is known, so nothing of a moment or later is in its counts.

Where a log does not record an action from its beginning, a count of it would say less of a post the longer that has
been shown, and more every day. It then counts what is recorded, and of the post's other impressions the share that is
to be expected: that of the recorded ones, drawn to the share among all posts. Of a service's own log everything is
recorded, and counts are counts.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from jaxtyping import Float64, Int32, Int64

from infra.ports.clock import HOUR_MS
from phoenix.data.impressions import Log
from phoenix.features.actions import DWELL_TIME
from thunder_ingest.counts.columns import COUNT_COLUMNS
from thunder_ingest.events import ACTION_INDEX, ActionName

_MAX_TOTAL: Final = 2**31 - 1
_PRIOR: Final = 10
"""The share among all posts weighs as much as so many impressions of a post's own."""


class Totals:
    """The totals of every post of a log at any moment.

    Args:
        log: what is counted.
        labelled_since: the time, epoch ms, from which on the log records an action; one not named was always recorded.

    """

    def __init__(self, log: Log, labelled_since: Mapping[ActionName, int] | None = None) -> None:
        order = np.lexsort((log.known_at, log.post))
        self._moments: Int64[np.ndarray, " m"] = np.unique(log.known_at)
        self._when = self._key(log.post[order], np.searchsorted(self._moments, log.known_at[order]))
        changes = np.ones((len(order), COUNT_COLUMNS), np.int32)
        changes[:, :-1] = log.actions[order]
        changes[:, DWELL_TIME] = log.dwell_ms[order]
        self._parts = [
            _Part(log.at[order], log.known_at[order], changes, since, actions)
            for since, actions in _by_time(labelled_since or {}).items()
            if np.any(log.at < since)
        ]
        self._sums: Int64[np.ndarray, "n+1 T"] = _running(changes)

    def at(self, post: Int64[np.ndarray, "*n"], moment_ms: Int64[np.ndarray, "*n"]) -> Int32[np.ndarray, "*n T"]:
        """What had become known of posts, given as indices into the log's, before these moments."""
        first = np.searchsorted(self._when, self._key(post, np.int64(0)))
        last = np.searchsorted(self._when, self._key(post, np.searchsorted(self._moments, moment_ms)))
        totals = self._sums[last] - self._sums[first]
        for part in self._parts:
            part.complete(totals, first, last, moment_ms)
        capped: Int32[np.ndarray, "*n T"] = np.minimum(totals, _MAX_TOTAL).astype(np.int32)
        return capped

    def _key(self, post: Int64[np.ndarray, "*n"], moment: Any) -> Int64[np.ndarray, "*n"]:
        """One number that orders by post, then by which moment it is."""
        key: Int64[np.ndarray, "*n"] = post * np.int64(len(self._moments) + 1) + moment
        return key


class _Part:
    """Actions that are recorded from one time on; in `changes` [n, T] they are set to 0 where they are not.

    What is to be expected of all posts is that of the last full hour: a table of hours is small.
    """

    def __init__(
        self,
        at: Int64[np.ndarray, " n"],
        known_at: Int64[np.ndarray, " n"],
        changes: Int32[np.ndarray, "n T"],
        since_ms: int,
        actions: list[int],
    ) -> None:
        recorded = at >= since_ms
        self._actions = actions
        changes[:, actions] *= recorded[:, np.newaxis]
        self._recorded = _running(recorded)
        self._first_hour = int(known_at.min()) // HOUR_MS
        hour = known_at[recorded] // HOUR_MS - self._first_hour
        of_hour = np.zeros((int(known_at.max()) // HOUR_MS - self._first_hour + 1, len(actions) + 1))
        np.add.at(of_hour, hour, np.column_stack([changes[recorded][:, actions], np.ones(len(hour))]))
        sums = _running(of_hour)
        self._shares: Float64[np.ndarray, "hours a"] = sums[:, :-1] / np.maximum(sums[:, -1:], 1)

    def complete(
        self,
        totals: Int64[np.ndarray, "*n T"],
        first: Int64[np.ndarray, "*n"],
        last: Int64[np.ndarray, "*n"],
        moment_ms: Int64[np.ndarray, "*n"],
    ) -> None:
        """Add to totals what is to be expected of the impressions of which these actions are not recorded."""
        recorded = self._recorded[last] - self._recorded[first]
        hour = np.clip(moment_ms // HOUR_MS - self._first_hour, 0, len(self._shares) - 1)
        counted = totals[..., self._actions]
        share = (counted + _PRIOR * self._shares[hour]) / (recorded + _PRIOR)[..., np.newaxis]
        totals[..., self._actions] += np.rint((totals[..., -1] - recorded)[..., np.newaxis] * share).astype(np.int64)


def _by_time(labelled_since: Mapping[ActionName, int]) -> dict[int, list[int]]:
    """The actions that are recorded from each time on."""
    actions: dict[int, list[int]] = {}
    for action, since in labelled_since.items():
        actions.setdefault(since, []).append(ACTION_INDEX[action])
    return actions


def _running(changes: Any) -> Any:
    """Sums of all before each row, and of all."""
    kind = np.float64 if changes.dtype == np.float64 else np.int64
    return np.concatenate([np.zeros_like(changes[:1], kind), np.cumsum(changes, axis=0, dtype=kind)])
