"""Engagement counts of posts as they stood at a moment: what the store's running totals said then.

Glossary of shapes:

    n: rows of the log
    m: moments at which rows became known
    T: the 19 actions, then impressions

A row is counted once all that came of it is known, so nothing of a moment or later is in its counts.
"""

from typing import Any, Final

import numpy as np
from jaxtyping import Int32, Int64

from phoenix.actions import DWELL_TIME
from phoenix.log import Log
from thunder_ingest.events import ACTIONS

_MAX_TOTAL: Final = 2**31 - 1


class Totals:
    """The totals of every post of a log at any moment."""

    def __init__(self, log: Log) -> None:
        order = np.lexsort((log.known_at, log.post))
        self._moments: Int64[np.ndarray, " m"] = np.unique(log.known_at)
        self._when = self._key(log.post[order], np.searchsorted(self._moments, log.known_at[order]))
        changes = np.ones((len(order), len(ACTIONS) + 1), np.int32)
        changes[:, :-1] = log.actions[order]
        changes[:, DWELL_TIME] = log.dwell_ms[order]
        self._sums = np.concatenate([np.zeros_like(changes[:1]), np.cumsum(changes, axis=0, dtype=np.int64)])

    def at(self, post: Int64[np.ndarray, "*n"], moment_ms: Int64[np.ndarray, "*n"]) -> Int32[np.ndarray, "*n T"]:
        """What had become known of posts, given as indices into the log's, before these moments."""
        first = np.searchsorted(self._when, self._key(post, np.int64(0)))
        last = np.searchsorted(self._when, self._key(post, np.searchsorted(self._moments, moment_ms)))
        totals: Int32[np.ndarray, "*n T"] = np.minimum(self._sums[last] - self._sums[first], _MAX_TOTAL).astype(
            np.int32
        )
        return totals

    def _key(self, post: Int64[np.ndarray, "*n"], moment: Any) -> Int64[np.ndarray, "*n"]:
        """One number that orders by post, then by which moment it is."""
        key: Int64[np.ndarray, "*n"] = post * np.int64(len(self._moments) + 1) + moment
        return key
