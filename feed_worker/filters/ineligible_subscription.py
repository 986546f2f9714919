"""IneligibleSubscriptionFilter: hides subscriber-only posts from other viewers."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class IneligibleSubscriptionFilter(Filter):
    """Drops subscriber-only posts of authors that the viewer does not subscribe to.

    Mirrors the published IneligibleSubscriptionFilter. Beyond it, posts that refer to such a post are dropped, too, at
    any distance: they would show the post to all viewers.
    """

    required: ClassVar[bool] = True

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts that this viewer may read, with all posts that they refer to."""
        subscriptions, referred = query.viewer.subscriptions, candidates.related.referred
        own = ~candidates.posts.subscriber_only | contains(subscriptions, candidates.posts.author_id)
        closed = referred.subscriber_only & ~contains(subscriptions, referred.author_id)
        return np.asarray(own & ~referred.holds(closed, len(candidates)))
