"""RepeatHydrator: marks the posts that may come back though the viewer knows them."""

from functools import partial, reduce

import numpy as np

from feed_worker.candidates.columns import NEW, SEEN, SERVED, SOURCES, Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.candidates.repeats import LastTimes
from feed_worker.filters.previously_seen import is_seen, touches
from feed_worker.framework.components import Hydrator

_REPEAT = SOURCES.index("repeat")


class RepeatHydrator(Hydrator):
    """Marks candidates that were served or seen, or refer to such a post, where these may come back.

    `PreviouslySeenFilter` and `PreviouslyServedFilter` drop what is not marked, so that nothing comes back where this
    hydrator fails. They also drop the posts of earlier pages. The published system has no repeats.
    """

    def enable(self, query: Query) -> bool:
        """True if posts may come back at all."""
        return query.may_repeat(0)

    def hydrate(self, query: Query, candidates: Candidates) -> Candidates:
        """Set `repeat` and `repeat_at`, if the other sources found few candidates."""
        if not query.may_repeat(int((candidates.source != _REPEAT).sum())):
            return candidates
        served = touches(partial(contains, query.served), candidates)
        repeat = np.where(is_seen(query, candidates), SEEN, np.where(served, SERVED, NEW)).astype(np.uint8)
        repeat[touches(partial(contains, query.paged), candidates)] = NEW
        times, posts = LastTimes.of(query), candidates.posts
        shown = (posts.post_id, posts.source_post_id, posts.in_reply_to_post_id)
        at = reduce(np.maximum, map(times.of_posts, shown))
        return candidates.with_columns(repeat=repeat, repeat_at=np.where(repeat != NEW, at, 0))
