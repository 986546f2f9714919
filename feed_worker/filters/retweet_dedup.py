"""RetweetDedupFilter: keeps one of a post and its reposts."""

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import NEW, Candidates
from feed_worker.candidates.id_sets import first_of_each
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class RetweetDedupFilter(Filter):
    """Keeps the first of a post and its reposts, in the order of sources; a repeat only without a new one.

    Mirrors the published RetweetDeduplicationFilter. That one runs before the filters of authors and words, so a repost
    that is hidden from the viewer hides the post and its other reposts, too.
    """

    def keep(self, _query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True at the first occurrence of each original post."""
        new_first = np.argsort(candidates.repeat != NEW, kind="stable")
        kept = np.empty(len(candidates), np.bool_)
        kept[new_first] = first_of_each(candidates.original_id[new_first])
        return kept
