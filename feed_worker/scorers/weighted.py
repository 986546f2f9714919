"""WeightedScorer: one score from the predicted actions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Scorer
from feed_worker.parameters import DWELL_TIME_UNIT_MS, Parameters
from thunder_ingest.events import ACTION_INDEX, ACTIONS


class WeightedScorer(Scorer):
    """The weighted sum of predictions, kept from going below zero.

    `combined` is the sum of weight times prediction; a missing prediction counts 0, and `vqv` counts only for videos
    longer than `min_video_ms`. With N and T the sizes of the negative and of all discrete weights, a negative sum
    becomes `(combined + N) / T * negative_offset`, which stays below every positive one: `combined + negative_offset`.
    So multipliers below 1, which follow, never lift a post. Without predictions a post scores 0.
    """

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Candidates]:
        """Set `weighted`."""
        return [
            each.with_columns(weighted=np.where(each.scored, _offset(weighted_terms(each, p).sum(axis=1), p), 0.0))
            for each, p in zip(candidates, (query.parameters for query in queries), strict=True)
        ]


def weighted_terms(candidates: Candidates, parameters: Parameters) -> NDArray[np.float64]:
    """[n, 19] what each predicted action adds to the sum."""
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
