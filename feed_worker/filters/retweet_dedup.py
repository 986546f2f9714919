"""RetweetDedupFilter: a post and its reposts are one."""

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import first_of_each
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class RetweetDedupFilter(Filter):
    """Of a post and the reposts of it, the first in the order of sources stays."""

    def keep(self, _query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """First occurrences of what is read."""
        return first_of_each(candidates.original_id)
