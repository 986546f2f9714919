"""PhoenixScorer: predicts the probability of each action."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.model_inputs import candidates_of, history_of
from feed_worker.candidates.ports import ModelEngine
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Scorer
from feed_worker.sources.stand_in import with_stand_in
from thunder_ingest.posts.store import PostStore


class PhoenixScorer(Scorer):
    """Runs the ranker over the batch. Candidates beyond `max_candidates` get no predictions and rank last.

    Mirrors the published PhoenixScorer. Not required: without predictions a feed is `degraded` and ordered by time.
    A viewer without history is scored like one who liked posts of the followed accounts (`with_stand_in`).

    Args:
        store: has the texts of the posts in the viewers' histories.
        model: the model that serves.
        rankers: the models of experiments, by checkpoint; a batch is scored ranker by ranker.

    """

    own_thread: ClassVar[bool] = True

    def __init__(self, store: PostStore, model: ModelEngine, rankers: Mapping[str, ModelEngine] | None = None) -> None:
        self._store, self._models = store, {"": model, **(rankers or {})}

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Candidates]:
        """Set `predictions`."""
        scored = list(candidates)
        for checkpoint in dict.fromkeys(query.parameters.checkpoint for query in queries):
            own = [place for place, query in enumerate(queries) if query.parameters.checkpoint == checkpoint]
            predicted = self._predicted(checkpoint, [queries[i] for i in own], [candidates[i] for i in own])
            for place, each in zip(own, predicted, strict=True):
                scored[place] = each
        return scored

    def _predicted(
        self, checkpoint: str, queries: Sequence[Query], candidates: Sequence[Candidates]
    ) -> list[Candidates]:
        model = self._models[checkpoint]
        readers = [with_stand_in(query, self._store) if query.needs_stand_in else query for query in queries]
        history = history_of(readers, self._store, model.config)
        inputs = candidates_of(queries, candidates, model.config)
        predictions = model.score(history, inputs)
        counts = inputs.mask.sum(axis=1).tolist()  # the rest of a row is padding
        return [_scored(each, row[:n]) for each, row, n in zip(candidates, predictions, counts, strict=True)]


def _scored(candidates: Candidates, predicted: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Candidates:
    predictions = candidates.predictions.copy()
    predictions[: len(predicted)] = predicted
    return candidates.with_columns(predictions=predictions)
