"""WeightedScorer: combines the predicted actions into one score."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Scorer
from feed_worker.parameters import DWELL_TIME_UNIT_MS, Parameters
from thunder_ingest.events import ACTION_INDEX, ACTIONS


class WeightedScorer(Scorer):
    """The weighted sum of predictions, mapped to values of at least 0.

    `combined` is the sum of weight times prediction. A missing prediction counts 0, and `vqv` counts only for videos
    longer than `min_video_ms`. N is the sum of the absolute negative discrete weights, T that of all discrete weights.
    A negative sum becomes `(combined + N) / T * negative_offset`, any other `combined + negative_offset`, which is
    larger. So the later multipliers below 1 never raise a post. A post without predictions scores 0. Mirrors the
    published WeightedScorer.
    """

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Candidates]:
        """Set `weighted`."""
        return [
            each.with_columns(weighted=np.where(each.scored, _offset(weighted_terms(each, p).sum(axis=1), p), 0.0))
            for each, p in zip(candidates, (query.parameters for query in queries), strict=True)
        ]


def weighted_terms(candidates: Candidates, parameters: Parameters) -> NDArray[np.float64]:
    """[n, 19] float64, the term of each predicted action in the sum."""
    predictions = candidates.predictions.astype(np.float64)
    terms = np.where(np.isfinite(predictions), predictions, 0.0) * _weights(parameters)
    terms[candidates.posts.video_ms <= parameters.min_video_ms, ACTION_INDEX["vqv"]] = 0.0
    return terms


def _weights(parameters: Parameters) -> NDArray[np.float64]:
    weights = np.array([parameters.weights.get(action, 0.0) for action in ACTIONS])
    weights[ACTION_INDEX["dwell_time"]] /= DWELL_TIME_UNIT_MS
    return weights


def _offset(combined: NDArray[np.float64], parameters: Parameters) -> NDArray[np.float64]:
    negative = parameters.negative_total
    total = parameters.positive_total + negative
    if total == 0:
        return np.maximum(combined, 0.0)
    squeezed = np.maximum(combined + negative, 0.0) / total * parameters.negative_offset
    return np.where(combined < 0, squeezed, combined + parameters.negative_offset)
