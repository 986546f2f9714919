"""RepeatFilter: keeps as many repeats as a feed lacks new posts."""

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import NEW, Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class RepeatFilter(Filter):
    """Drops all repeats if `repeat_below` new posts are left, or enough for the feed. Else it keeps the first repeats.

    The order is served posts before seen ones, oldest first. It runs after all other filters, since these decide how
    many new posts are left. The published system has no repeats.
    """

    def enable(self, query: Query) -> bool:
        """True if posts may come back at all."""
        return query.may_repeat(0)

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for new posts, and for the repeats that the feed needs."""
        kept: NDArray[np.bool_] = candidates.repeat == NEW
        new = int(kept.sum())
        if new < min(query.parameters.repeat_below, query.size):
            posts = candidates.posts
            order = np.lexsort((-posts.post_id, -posts.created_at, candidates.repeat_at, candidates.repeat))
            kept[order[: query.parameters.selected_for(query.size)]] = True
        return kept
