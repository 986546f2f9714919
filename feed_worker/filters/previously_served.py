"""PreviouslyServedFilter: drops posts of recent feeds."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import NEW, Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.filters.previously_seen import touches
from feed_worker.framework.components import Filter


class PreviouslyServedFilter(Filter):
    """Drops posts that recent feeds of the viewer contained (`served_window_ms`, `served_max`), seen or not.

    Mirrors the published PreviouslyServedPostsFilter. Posts that are marked as repeats stay (`RepeatHydrator`).
    """

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts that were not served recently, and refer to no such post; and for repeats."""
        return np.asarray(~touches(partial(contains, query.served), candidates) | (candidates.repeat != NEW))
