"""CoreDataFilter: a candidate without its core data is none."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class CoreDataFilter(Filter):
    """Drops posts whose author is unknown: no rule about authors could be checked for them."""

    required: ClassVar[bool] = True

    def keep(self, _query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """Posts with an id and an author."""
        return np.asarray((candidates.posts.post_id != 0) & (candidates.posts.author_id != 0))
