"""Temporal split of a log into training rows and evaluated rows.

Glossary of shapes:

    s: selected rows of the log
    j: evaluated rows
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64

from phoenix.data.impressions import Log
from phoenix.features.actions import DISCRETE
from thunder_ingest.events import ACTION_INDEX, ACTIONS, ActionName

Rows = Int64[np.ndarray, " s"]


@dataclass(frozen=True)
class Split:
    """A log split at `since_ms`. Predictions for evaluated rows use nothing from that time on. Times are epoch ms.

    Attributes:
        log: the whole log.
        trained_since_ms: start of the training span: rates and counters are learned on it, and all actions are
            recorded in it. Earlier rows can be examples of the actions recorded there.
        since_ms: end of the training span and start of the evaluated span.
        until_ms: end of the evaluated span.
        labelled_since: start of the recording of each action; other actions are recorded in the whole log.

    Raises:
        ValueError: the times are not in this order, or a span has no rows.

    """

    log: Log
    trained_since_ms: int
    since_ms: int
    until_ms: int
    labelled_since: Mapping[ActionName, int]

    def __post_init__(self) -> None:
        if not self.trained_since_ms < self.since_ms < self.until_ms:
            raise ValueError("the evaluated span must come after the training span, and neither may be empty")
        if not len(self.trained):
            raise ValueError("the log has no rows in the training span")
        if not len(self.evaluated):
            raise ValueError("the log has no rows in the evaluated span")

    @cached_property
    def past(self) -> Rows:
        """The rows that were complete before `since_ms`."""
        rows: Rows = np.flatnonzero(self.log.complete_at < self.since_ms)
        return rows

    @cached_property
    def trained(self) -> Rows:
        """The training rows: rows of the training span that were complete before `since_ms`."""
        rows: Rows = self.past[self.log.at[self.past] >= self.trained_since_ms]
        return rows

    @cached_property
    def evaluated(self) -> Int64[np.ndarray, " j"]:
        """The evaluated rows."""
        return np.flatnonzero((self.log.at >= self.since_ms) & (self.log.at < self.until_ms))

    def labelled(self, action: ActionName, rows: Rows) -> Rows:
        """Select the rows with a known label of the action."""
        labelled: Rows = rows[self.log.at[rows] >= self.labelled_since.get(action, 0)]
        return labelled

    def labels(self, action: ActionName, rows: Rows) -> Bool[np.ndarray, " t"]:
        """Return the labels: True for rows with the action."""
        labels: Bool[np.ndarray, " t"] = self.log.actions[rows, ACTION_INDEX[action]]
        return labels

    def rate(self, action: ActionName) -> float:
        """Return the rate of the action in the training rows; 0 without labelled rows."""
        labels = self.labels(action, self.labelled(action, self.trained))
        return float(labels.mean()) if len(labels) else 0.0

    def frequent_actions(self, least: int) -> list[ActionName]:
        """Return the actions with at least `least` positives and `least` negatives in both spans.

        An action must be recorded from the start of the evaluated span on.
        """

        def enough(action: ActionName, rows: Rows) -> bool:
            labels = self.labels(action, self.labelled(action, rows))
            return min(int(labels.sum()), int((~labels).sum())) >= least

        return [
            action
            for action in ACTIONS[:DISCRETE]
            if self.labelled_since.get(action, 0) <= self.since_ms
            and enough(action, self.trained)
            and enough(action, self.evaluated)
        ]
