"""PreviouslySeenFilter: nothing is shown twice."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class PreviouslySeenFilter(Filter):
    """Drops posts that the viewer has seen, by impressions and engagements or by the request's own list.

    A post counts as seen with what it shows or answers: the reposted original, the post replied to and, beyond the
    published rule, the quoted post. The published system asks Bloom filters, which also hide posts that nobody saw;
    here the ids of the newest thousands are kept, and only what was seen before those is asked of a filter.
    """

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """Posts that bring something new."""
        seen = touches(partial(contains, query.seen), candidates)
        return ~(seen | touches(query.viewer.seen_before.holds, candidates))


def touches(holds: Callable[[NDArray[np.int64]], NDArray[np.bool_]], candidates: Candidates) -> NDArray[np.bool_]:
    """[n] whether a candidate, or a post that it shows or answers, is in a set of ids."""
    posts = candidates.posts
    shown = holds(posts.source_post_id) | holds(posts.in_reply_to_post_id)
    return np.asarray(holds(posts.post_id) | shown)
