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

    Mirrors the published IneligibleSubscriptionFilter. Beyond it, reposts and quotes of such posts are dropped, too:
    they would show the post to all viewers.
    """

    required: ClassVar[bool] = True

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts that this viewer may read, with the posts that they repost or quote."""
        subscriptions, related = query.viewer.subscriptions, candidates.related
        own = ~candidates.posts.subscriber_only | contains(subscriptions, candidates.posts.author_id)
        shown = ~related.source_subscriber_only | contains(subscriptions, related.source_author_id)
        return np.asarray(own & shown)
