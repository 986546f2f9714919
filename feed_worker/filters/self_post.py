"""SelfPostFilter: drops the viewer's own posts."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class SelfPostFilter(Filter):
    """Drops the viewer's own posts, from any source.

    Mirrors the published SelfTweetFilter. Beyond it, reposts of the viewer's posts are dropped, too.
    """

    required: ClassVar[bool] = True

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts of other authors, unless they repost the viewer."""
        theirs = candidates.posts.author_id != query.user_id
        return np.asarray(theirs & (candidates.original_author_id != query.user_id))
