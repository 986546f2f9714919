"""Point-in-time counts: the engagement counts of posts as of a moment, without leakage from later rows.

Glossary of shapes (the letters of `phoenix.features.inputs`, and):

    r: rows of the log
    m: distinct times at which rows are complete
    A+1: the 19 actions, then impressions
    a: actions whose recording begins at one time
    h: hours of the log

A row is counted from the time on at which it is complete. The counts of a moment therefore contain nothing of that
moment or later. A viewer is one voice per post and action, as in service (`thunder_ingest.counts.table`): repeated
impressions and actions count once, and the newest dwell counts.

Some logs record an action only from a later time on. Plain counts of it would be too small for posts with older
impressions. The missing counts are imputed by empirical-Bayes smoothing: the post's rate on its recorded impressions is
shrunk to the rate of all posts (beta-binomial model) and multiplied by the number of its unrecorded impressions. The
log of a service records all actions, and its counts are plain counts.
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
"""Prior strength: the rate of all posts weighs as much as this number of the post's own impressions."""


class PointInTimeCounts:
    """The counts of every post of a log as of any moment.

    Args:
        log: source of the counts.
        labelled_since: start of the recording of each action, epoch ms; other actions are recorded in the whole log.

    """

    def __init__(self, log: Log, labelled_since: Mapping[ActionName, int] | None = None) -> None:
        order = np.lexsort((log.complete_at, log.post))
        self._moments: Int64[np.ndarray, " m"] = np.unique(log.complete_at)
        self._when = self._key(log.post[order], np.searchsorted(self._moments, log.complete_at[order]))
        changes = added_by_rows(log)[order]
        self._parts = [
            _Part(log.at[order], log.complete_at[order], changes, since, actions)
            for since, actions in _by_time(labelled_since or {}).items()
            if np.any(log.at < since)
        ]
        self._sums: Int64[np.ndarray, "r+1 A+1"] = _running(changes)

    def at(self, post: Int64[np.ndarray, "*n"], moment_ms: Int64[np.ndarray, "*n"]) -> Int32[np.ndarray, "*n A+1"]:
        """Return the counts of posts from the rows complete before each moment.

        Args:
            post: indices into the log's posts.
            moment_ms: epoch ms, one for each post.

        """
        first = np.searchsorted(self._when, self._key(post, np.int64(0)))
        last = np.searchsorted(self._when, self._key(post, np.searchsorted(self._moments, moment_ms)))
        totals = self._sums[last] - self._sums[first]
        for part in self._parts:
            part.complete(totals, first, last, moment_ms)
        capped: Int32[np.ndarray, "*n A+1"] = np.minimum(totals, _MAX_TOTAL).astype(np.int32)
        return capped

    def _key(self, post: Int64[np.ndarray, "*n"], moment: Any) -> Int64[np.ndarray, "*n"]:
        """Return a sort key: by post, then by the moment's ordinal."""
        key: Int64[np.ndarray, "*n"] = post * np.int64(len(self._moments) + 1) + moment
        return key


def added_by_rows(log: Log) -> Int32[np.ndarray, "r A+1"]:
    """Return what each row adds to the counts of its post, in the order of the rows' completion."""
    order = np.lexsort((log.at, log.complete_at, log.viewer_id, log.post))
    post, viewer_id, number = log.post[order], log.viewer_id[order], np.arange(len(order))
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = (post[1:] != post[:-1]) | (viewer_id[1:] != viewer_id[:-1])
    first = np.maximum.accumulate(np.where(is_first, number, 0))  # of the same post and viewer
    added = np.empty((len(order), COUNT_COLUMNS), np.int32)
    added[:, -1] = is_first
    for column in range(COUNT_COLUMNS - 1):
        done = log.actions[order, column]
        before = np.cumsum(done) - done
        added[:, column] = done & (before == before[first])
    dwelt = np.flatnonzero(log.dwell_ms[order] > 0)
    dwell_ms = log.dwell_ms[order[dwelt]].astype(np.int32)
    is_again = first[dwelt[1:]] == first[dwelt[:-1]]
    added[:, DWELL_TIME] = 0
    added[dwelt, DWELL_TIME] = dwell_ms
    added[dwelt[1:], DWELL_TIME] -= np.where(is_again, dwell_ms[:-1], 0)
    of_rows = np.empty_like(added)
    of_rows[order] = added
    return of_rows


class _Part:
    """Actions whose recording begins at one time; sets them in `changes` [r, A+1] to 0 before that time.

    The rate of all posts is that at the end of the last full hour, because a table of hours is small.
    """

    def __init__(
        self,
        at: Int64[np.ndarray, " r"],
        complete_at: Int64[np.ndarray, " r"],
        changes: Int32[np.ndarray, "r A+1"],
        since_ms: int,
        actions: list[int],
    ) -> None:
        recorded = at >= since_ms
        self._actions = actions
        changes[:, actions] *= recorded[:, np.newaxis]
        shown = changes[:, -1] * recorded
        self._recorded = _running(shown)
        self._first_hour = int(complete_at.min()) // HOUR_MS
        hour = complete_at[recorded] // HOUR_MS - self._first_hour
        of_hour = np.zeros((int(complete_at.max()) // HOUR_MS - self._first_hour + 1, len(actions) + 1))
        np.add.at(of_hour, hour, np.column_stack([changes[recorded][:, actions], shown[recorded]]))
        sums = _running(of_hour)
        self._shares: Float64[np.ndarray, "h a"] = sums[:, :-1] / np.maximum(sums[:, -1:], 1)

    def complete(
        self,
        totals: Int64[np.ndarray, "*n A+1"],
        first: Int64[np.ndarray, "*n"],
        last: Int64[np.ndarray, "*n"],
        moment_ms: Int64[np.ndarray, "*n"],
    ) -> None:
        """Add the expected counts of the unrecorded impressions to totals, in place."""
        recorded = self._recorded[last] - self._recorded[first]
        hour = np.clip(moment_ms // HOUR_MS - self._first_hour, 0, len(self._shares) - 1)
        counted = totals[..., self._actions]
        share = (counted + _PRIOR * self._shares[hour]) / (recorded + _PRIOR)[..., np.newaxis]
        totals[..., self._actions] += np.rint((totals[..., -1] - recorded)[..., np.newaxis] * share).astype(np.int64)


def _by_time(labelled_since: Mapping[ActionName, int]) -> dict[int, list[int]]:
    """Group actions by the start of their recording."""
    actions: dict[int, list[int]] = {}
    for action, since in labelled_since.items():
        actions.setdefault(since, []).append(ACTION_INDEX[action])
    return actions


def _running(changes: Any) -> Any:
    """Return exclusive prefix sums along the first axis, followed by the sum of all."""
    kind = np.float64 if changes.dtype == np.float64 else np.int64
    return np.concatenate([np.zeros_like(changes[:1], kind), np.cumsum(changes, axis=0, dtype=kind)])
