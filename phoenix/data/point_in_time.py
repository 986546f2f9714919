"""Point-in-time counts: the engagement counts of posts as of a moment, without leakage from later rows.

Glossary of shapes (the letters of `phoenix.features.inputs`, and):

    n: events that change a count
    m: distinct times of these
    A+1: the 19 actions, then impressions
    a: actions whose recording begins at one time
    h: hours of the log

The counts of a moment are those of the events before it, by the rules of the service (`thunder_ingest.counts.table`): a
viewer is one voice per post and action, an undo takes it back, and the newest dwell counts. A service estimates counts
above 2,048 from a sample; here they are exact.

Some logs record an action only from a later time on. Plain counts of it would be too small for posts with older
impressions. The missing counts are imputed by empirical-Bayes smoothing: the post's rate on its recorded impressions is
shrunk to the rate of all posts (beta-binomial model) and multiplied by the number of its unrecorded impressions. The
log of a service records all actions, and its counts are plain counts.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64

from infra.ports.clock import HOUR_MS
from phoenix.data.groups import group_starts
from phoenix.data.impressions import Log
from phoenix.features.actions import DWELL_TIME
from thunder_ingest.counts.columns import COUNT_COLUMNS
from thunder_ingest.events import ACTION_INDEX, ActionName
from thunder_ingest.events.actions import DONE_WINS

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
        since_ms = labelled_since or {}
        added = added_by_events(log, since_ms)
        self._moments: Int64[np.ndarray, " m"] = np.unique(added.at)
        self._when = self._key(added.post, np.searchsorted(self._moments, added.at))
        self._parts = [
            _Part(added, since, actions)
            for since, actions in _by_time(since_ms).items()
            if len(added.at) and np.any(log.events["at"] < since)
        ]
        self._sums: Int64[np.ndarray, "n+1 A+1"] = _running(added.changes)

    def at(self, post: Int64[np.ndarray, "*n"], moment_ms: Int64[np.ndarray, "*n"]) -> Int32[np.ndarray, "*n A+1"]:
        """Return the counts of posts from the events before each moment.

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


class Added(NamedTuple):
    """The changes of counts by events, by post, then time."""

    post: Int64[np.ndarray, " n"]  # index into the log's posts
    at: Int64[np.ndarray, " n"]
    changes: Int32[np.ndarray, "n A+1"]


def added_by_events(log: Log, labelled_since: Mapping[ActionName, int]) -> Added:
    """Return the changes of each event to the counts of its post; actions that were not recorded yet add nothing.

    The newest event of a viewer, post and action counts, and takes the place of the one before it.
    """
    events = log.events
    since = np.zeros(COUNT_COLUMNS, np.int64)
    for action, at in labelled_since.items():
        since[ACTION_INDEX[action]] = at
    events = events[events["at"] >= since[events["action"]]]
    done_wins = DONE_WINS >> events["action"].astype(np.int64) & 1
    stamp = events["at"] * 2 + (events["undo"] ^ done_wins)  # of one time, the greater one counts
    amount = np.where(events["action"] == DWELL_TIME, events["dwell_ms"], 1) * ~events["undo"]
    order = np.lexsort((amount, stamp, events["action"], events["viewer_id"], events["post_id"]))
    events, amount = events[order], amount[order]
    is_first = group_starts(events["post_id"], events["viewer_id"], events["action"])
    change = amount - np.where(is_first, 0, np.append(0, amount[:-1]))
    order = np.lexsort((events["at"], events["post_id"]))
    order = order[change[order] != 0]
    events = events[order]
    changes = np.zeros((len(order), COUNT_COLUMNS), np.int32)
    changes[np.arange(len(order)), events["action"]] = change[order]
    return Added(np.searchsorted(log.posts.post_id, events["post_id"]), events["at"], changes)


class _Part:
    """Actions whose recording begins at one time.

    The rate of all posts is that at the end of the last full hour, because a table of hours is small.
    """

    def __init__(self, added: Added, since_ms: int, actions: list[int]) -> None:
        recorded = added.at >= since_ms
        self._actions = actions
        shown = added.changes[:, -1] * recorded
        self._recorded = _running(shown)
        self._first_hour = int(added.at.min()) // HOUR_MS
        hour = added.at[recorded] // HOUR_MS - self._first_hour
        of_hour = np.zeros((int(added.at.max()) // HOUR_MS - self._first_hour + 1, len(actions) + 1))
        np.add.at(of_hour, hour, np.column_stack([added.changes[recorded][:, actions], shown[recorded]]))
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
    return np.concatenate([np.zeros((1, *changes.shape[1:]), kind), np.cumsum(changes, axis=0, dtype=kind)])
