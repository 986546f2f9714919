"""OONScorer: lowers out-of-network posts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Scorer
from thunder_ingest.events import REPLY, REPOST


class OONScorer(Scorer):
    """Multiplies the score of out-of-network posts by `oon_factor`, after all other heuristics.

    With `oon_factor_for_replies` it also applies to in-network replies and reposts. Mirrors the published OONScorer.
    """

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Candidates]:
        """Set `oon`."""
        return [
            each.with_columns(oon=_multipliers(query, each)) for query, each in zip(queries, candidates, strict=True)
        ]


def _multipliers(query: Query, candidates: Candidates) -> NDArray[np.float64]:
    lowered = ~candidates.in_network
    if query.parameters.oon_factor_for_replies:
        lowered |= (candidates.posts.kind == REPLY) | (candidates.posts.kind == REPOST)
    return np.where(lowered, query.parameters.oon_factor, 1.0)
