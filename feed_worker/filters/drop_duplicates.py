"""DropDuplicatesFilter: removes posts that several sources found."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import first_of_each
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class DropDuplicatesFilter(Filter):
    """Keeps the first occurrence of each post id; the order of sources is fixed, with Thunder first.

    Mirrors the published DropDuplicatesFilter.
    """

    required: ClassVar[bool] = True

    def keep(self, _query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True at the first occurrence of each post id."""
        return first_of_each(candidates.posts.post_id)
