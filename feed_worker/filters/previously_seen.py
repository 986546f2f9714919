"""PreviouslySeenFilter: nothing is shown twice."""

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates import Candidates
from feed_worker.components import Filter
from feed_worker.membership import contains
from feed_worker.query import Query


class PreviouslySeenFilter(Filter):
    """Drops posts that the viewer has seen, by impressions and engagements or by the request's own list.

    A post counts as seen with what it shows or answers: the reposted original, the post replied to and, beyond the
    published rule, the quoted post. The published system asks Bloom filters, which also hide posts that nobody saw;
    here the ids themselves are kept.
    """

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """Posts that bring something new."""
        return ~touches(query.seen, candidates)


def touches(sorted_ids: NDArray[np.int64], candidates: Candidates) -> NDArray[np.bool_]:
    """[n] whether a candidate, or a post that it shows or answers, is among some ids."""
    posts = candidates.posts
    own = contains(sorted_ids, posts.post_id)
    shown = contains(sorted_ids, posts.source_post_id)
    return np.asarray(own | shown | contains(sorted_ids, posts.in_reply_to_post_id))
