"""PreviouslyServedFilter: the next feed differs from the last."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.filters.previously_seen import touches
from feed_worker.framework.components import Filter


class PreviouslyServedFilter(Filter):
    """Drops what the viewer's earlier feeds held a moment ago (`served_window_ms`, `served_max`), seen or not."""

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """Posts that were not just served, nor what they show or answer."""
        return ~touches(partial(contains, query.served), candidates)
