"""SelfPostFilter: nobody is shown their own posts."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class SelfPostFilter(Filter):
    """Drops the viewer's posts and, beyond the published rule, reposts of them, whichever source found them."""

    required: ClassVar[bool] = True

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """Posts by others of what others wrote."""
        theirs = candidates.posts.author_id != query.user_id
        return np.asarray(theirs & (candidates.original_author_id != query.user_id))
