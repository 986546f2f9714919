"""What may be learned from and what is judged: a log cut at one moment.

Glossary of shapes:

    n: rows of the log
    t: rows of the past, or some of them
    j: rows that are judged
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64

from phoenix.data.impressions import Log
from phoenix.features.actions import DISCRETE
from thunder_ingest.events import ACTION_INDEX, ACTIONS, ActionName

Rows = Int64[np.ndarray, " t"]


@dataclass(frozen=True)
class Split:
    """A log cut at `since_ms`: nothing that became known from then on may be used to predict what is judged.

    Attributes:
        log: all of it.
        trained_since_ms: where the span begins that rates and counters are learned on, and from which on all actions
            are recorded; of what is earlier, what is recorded may be examples too.
        since_ms: where it ends, and where what is judged begins.
        until_ms: where what is judged ends.
        labelled_since: the time from which on the log records an action; one not named was always recorded.

    Raises:
        ValueError: the times are not in this order, or there is nothing to learn from or nothing to judge.

    """

    log: Log
    trained_since_ms: int
    since_ms: int
    until_ms: int
    labelled_since: Mapping[ActionName, int]

    def __post_init__(self) -> None:
        if not self.trained_since_ms < self.since_ms < self.until_ms:
            raise ValueError("what is judged must come after what is trained on, and both must last some time")
        if not len(self.trained):
            raise ValueError("the log has nothing in the span that is trained on")
        if not len(self.judged):
            raise ValueError("the log has nothing in the span that is judged")

    @cached_property
    def past(self) -> Rows:
        """The rows of which everything was known before `since_ms`."""
        rows: Rows = np.flatnonzero(self.log.complete_at < self.since_ms)
        return rows

    @cached_property
    def trained(self) -> Rows:
        """Those of them in the span that rates and counters are learned on."""
        rows: Rows = self.past[self.log.at[self.past] >= self.trained_since_ms]
        return rows

    @cached_property
    def judged(self) -> Int64[np.ndarray, " j"]:
        """The rows that are judged."""
        return np.flatnonzero((self.log.at >= self.since_ms) & (self.log.at < self.until_ms))

    def labelled(self, action: ActionName, rows: Rows) -> Rows:
        """Those of some rows of which it is known whether the action followed."""
        labelled: Rows = rows[self.log.at[rows] >= self.labelled_since.get(action, 0)]
        return labelled

    def labels(self, action: ActionName, rows: Rows) -> Bool[np.ndarray, " t"]:
        """Whether the action followed."""
        labels: Bool[np.ndarray, " t"] = self.log.actions[rows, ACTION_INDEX[action]]
        return labels

    def rate(self, action: ActionName) -> float:
        """How often the action followed in that span; 0 where nothing is known."""
        labels = self.labels(action, self.labelled(action, self.trained))
        return float(labels.mean()) if len(labels) else 0.0

    def judgeable(self, least: int) -> list[ActionName]:
        """The actions that occur, and fail to occur, so often in both spans that figures about them say something.

        An action that was not recorded from the beginning of the judged span is none of them.
        """

        def enough(action: ActionName, rows: Rows) -> bool:
            labels = self.labels(action, self.labelled(action, rows))
            return min(int(labels.sum()), int((~labels).sum())) >= least

        return [
            action
            for action in ACTIONS[:DISCRETE]
            if self.labelled_since.get(action, 0) <= self.since_ms
            and enough(action, self.trained)
            and enough(action, self.judged)
        ]
