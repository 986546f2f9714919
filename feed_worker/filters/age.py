"""AgeFilter: drops old posts."""

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class AgeFilter(Filter):
    """Keeps posts up to `max_age_ms` old, by the query's time and the time of the post's event.

    Mirrors the published AgeFilter, which decodes the time from the post's id; here ids carry no time.
    """

    def __init__(self, max_age_ms: int) -> None:
        self._max_age_ms = max_age_ms

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts of a known time and at most the maximum age."""
        created_at = candidates.posts.created_at
        return np.asarray((created_at > 0) & (query.now_ms - created_at <= self._max_age_ms))
