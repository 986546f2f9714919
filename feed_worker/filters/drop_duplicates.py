"""DropDuplicatesFilter: a post found by two sources is one candidate."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import first_of_each
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class DropDuplicatesFilter(Filter):
    """The first occurrence of a post id stays: sources are asked in a fixed order, Thunder first."""

    required: ClassVar[bool] = True

    def keep(self, _query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """First occurrences."""
        return first_of_each(candidates.posts.post_id)
