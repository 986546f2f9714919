"""AgeFilter: old posts are no candidates."""

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class AgeFilter(Filter):
    """Keeps posts up to `max_age_ms` old by the query's clock.

    A post's age is that of its event. The published system decodes it from the id; here ids carry no time.
    """

    def __init__(self, max_age_ms: int) -> None:
        self._max_age_ms = max_age_ms

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """Posts young enough, of a known time."""
        created_at = candidates.posts.created_at
        return np.asarray((created_at > 0) & (query.now_ms - created_at <= self._max_age_ms))
