"""PhoenixScorer: the probability of every action, for every candidate."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from feed_worker.candidates import Candidates
from feed_worker.components import Scorer
from feed_worker.model_inputs import candidates_of, history_of
from feed_worker.ports import Model
from feed_worker.query import Query
from thunder_ingest.post_store import PostStore


class PhoenixScorer(Scorer):
    """Runs the ranker over the batch. Candidates beyond `max_candidates` go without predictions, and rank last.

    Not required: without predictions a feed is ordered by time, and says that it is degraded.
    """

    own_thread: ClassVar[bool] = True

    def __init__(self, store: PostStore, model: Model) -> None:
        self._store, self._model = store, model

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Candidates]:
        """Set `predictions`."""
        history = history_of(queries, self._store, self._model.config)
        inputs = candidates_of(queries, candidates, self._model.config)
        predictions = self._model.score(history, inputs)
        return [_scored(each, predicted) for each, predicted in zip(candidates, predictions, strict=True)]


def _scored(candidates: Candidates, predicted: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Candidates:
    predictions = candidates.predictions.copy()
    n = min(len(predictions), len(predicted))
    predictions[:n] = predicted[:n]
    return candidates.with_columns(predictions=predictions)
