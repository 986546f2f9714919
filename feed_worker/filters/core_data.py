"""CoreDataFilter: drops candidates without core data."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class CoreDataFilter(Filter):
    """Drops posts without an author: no rule about authors can be checked for them.

    Mirrors the published CoreDataHydrationFilter.
    """

    required: ClassVar[bool] = True

    def keep(self, _query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts with an id and an author."""
        return np.asarray((candidates.posts.post_id != 0) & (candidates.posts.author_id != 0))
