"""IneligibleSubscriptionFilter: subscriber-only posts are for subscribers."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class IneligibleSubscriptionFilter(Filter):
    """Drops subscriber-only posts whose author the viewer has not subscribed to.

    Beyond the published rule it also drops reposts and quotes of such posts: they would show them to anybody.
    """

    required: ClassVar[bool] = True

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """Posts, and posts shown in them, that anybody or this viewer may read."""
        subscriptions, related = query.viewer.subscriptions, candidates.related
        own = ~candidates.posts.subscriber_only | contains(subscriptions, candidates.posts.author_id)
        shown = ~related.source_subscriber_only | contains(subscriptions, related.source_author_id)
        return np.asarray(own & shown)
