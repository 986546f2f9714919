"""OONRetweetReplyFilter: drops out-of-network replies and reposts."""

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter
from thunder_ingest.events import REPLY, REPOST


class OONRetweetReplyFilter(Filter):
    """Drops replies and reposts of accounts that the viewer does not follow, and replies without a parent.

    Mirrors the published OONRetweetReplyFilter.
    """

    def keep(self, _query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for originals, quotes, and in-network reposts and replies with a parent."""
        kind = candidates.posts.kind
        secondary = (kind == REPLY) | (kind == REPOST)
        orphaned = (kind == REPLY) & (candidates.posts.in_reply_to_post_id == 0)
        return np.asarray((candidates.in_network | ~secondary) & ~orphaned)
