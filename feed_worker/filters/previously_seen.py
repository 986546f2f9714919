"""PreviouslySeenFilter: drops posts that the viewer has seen."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import NEW, Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class PreviouslySeenFilter(Filter):
    """Drops posts seen by impressions, by engagements or by the request's `seen_ids`.

    Mirrors the published PreviouslySeenPostsFilter. A post also counts as seen if its reposted original or its parent
    was seen and, beyond the published filter, its quoted post. The published system looks up Bloom filters (Bloom,
    1970), whose false positives hide unseen posts. Here the newest thousands of ids are stored exactly; a Bloom filter
    holds only older ones. Posts that are marked as repeats stay (`RepeatHydrator`).
    """

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts that are unseen, and refer to no seen post; and for repeats."""
        return np.asarray(~is_seen(query, candidates) | (candidates.repeat != NEW))


def is_seen(query: Query, candidates: Candidates) -> NDArray[np.bool_]:
    """[n] True for posts that the viewer has seen, and for posts that refer to one."""
    seen = touches(partial(contains, query.seen), candidates)
    return seen | touches(query.viewer.seen_before.holds, candidates)


def touches(holds: Callable[[NDArray[np.int64]], NDArray[np.bool_]], candidates: Candidates) -> NDArray[np.bool_]:
    """[n] True if the candidate, its reposted or quoted post, or its parent is in a set of ids.

    Args:
        holds: maps ids [n] to their membership [n] in the set.
        candidates: n of them.

    """
    posts = candidates.posts
    shown = holds(posts.source_post_id) | holds(posts.in_reply_to_post_id)
    return np.asarray(holds(posts.post_id) | shown)
