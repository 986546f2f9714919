"""Held-out examples: the newest of a span, which training leaves out, and the figures of models on them.

All predictions are made at the start of the held-out time, so histories and counts contain nothing from it (static
evaluation, as in `foryou evaluate`).
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Float32, Int64

from phoenix.data.batches import Span
from phoenix.data.impressions import Log
from phoenix.data.slates import rows_between
from phoenix.evaluation import metrics
from phoenix.evaluation.bootstrap import Draws
from phoenix.evaluation.predictions import evaluation_config, predictions
from phoenix.evaluation.split import Split
from phoenix.features.actions import DISCRETE
from phoenix.models.configs import ModelConfig
from phoenix.models.parameters import Params
from phoenix.serving.engine import Phoenix
from thunder_ingest.events import ACTION_INDEX, ACTIONS, ActionName

MOST: Final = 10_000
"""Maximum number of held-out examples: the error of an AUC on them is below 0.01, and they take seconds."""
LEAST: Final = 20
"""Minimum of examples with an action, and of those without, for figures of the action."""
LOG_LOSS, AUC = "held_out_log_loss", "held_out_auc"


def split_of(log: Log, span: Span, share: float) -> Split | None:
    """Cut the newest `share` of a span's impressions off, at most MOST; None if one of both parts would be empty."""
    at = np.sort(log.at[rows_between(log, span.since_ms, span.until_ms)])
    if not (count := min(round(share * len(at)), MOST)):
        return None
    try:
        return Split(log, span.since_ms, int(at[-count]), span.until_ms, span.labelled_since)
    except ValueError:  # too few examples
        return None


class HeldOut:
    """The figures of models on the held-out examples of a log.

    Args:
        split: the held-out examples are its evaluated rows.
        model: sizes of the models.
        action_weights: weights of the actions in the log-loss.

    """

    def __init__(self, split: Split, model: ModelConfig, action_weights: Mapping[ActionName, float]) -> None:
        self._split, self._model, self._weights = split, evaluation_config(model), action_weights
        self._rows = {action: rows for action in ACTIONS[:DISCRETE] if len(rows := self._measurable(action))}
        self._compiled: Phoenix | None = None

    def figures(self, params: Params) -> dict[str, float]:
        """Return the log-loss, averaged over actions by weight, and the AUC, averaged by number of positives.

        Empty if no action is frequent enough.
        """
        if not self._rows:
            return {}
        phoenix = Phoenix(self._model, params, "held-out")
        self._compiled = phoenix if self._compiled is None else phoenix.compiled_with(self._compiled)
        predicted = predictions(phoenix, self._split)
        losses, areas = zip(*(self._measured(action, predicted) for action in self._rows), strict=True)
        weights = [self._weights.get(action, 0.0) for action in self._rows]
        positives = [self._split.labels(action, rows).sum() for action, rows in self._rows.items()]
        return {LOG_LOSS: float(np.average(losses, weights=weights)), AUC: float(np.average(areas, weights=positives))}

    def _measurable(self, action: ActionName) -> Int64[np.ndarray, " j"]:
        """The held-out rows with a known label of an action; none if the action has no weight or is too rare."""
        rows = self._split.labelled(action, self._split.evaluated)
        positive = int(self._split.labels(action, rows).sum())
        is_frequent = min(positive, len(rows) - positive) >= LEAST and self._weights.get(action, 0.0) > 0
        return rows if is_frequent else rows[:0]

    def _measured(self, action: ActionName, predicted: Float32[np.ndarray, "j 19"]) -> tuple[float, float]:
        """The log-loss and the AUC of an action."""
        rows = self._rows[action]
        labels, draws = self._split.labels(action, rows), Draws.of(self._split.log.viewer_id[rows], replicates=0)
        of_action = predicted[np.searchsorted(self._split.evaluated, rows), ACTION_INDEX[action]]
        loss, area = metrics.log_loss(labels, of_action, draws), metrics.auc(labels, of_action, draws)
        return float(loss[0]), float(area[0])
