"""RepeatHydrator: marks the posts that may come back though the viewer knows them."""

from functools import partial, reduce

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import NEW, SEEN, SERVED, SOURCES, Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import AMPLE, Query
from feed_worker.candidates.repeats import LastTimes
from feed_worker.filters.previously_seen import is_seen, touches
from feed_worker.framework.components import Hydrator

_REPEAT = SOURCES.index("repeat")


class RepeatHydrator(Hydrator):
    """Marks candidates that were served or seen, or refer to such a post, where these may come back.

    `PreviouslySeenFilter` and `PreviouslyServedFilter` drop posts without the mark, so that nothing comes back where
    this hydrator fails. They also drop the posts of earlier pages. The published system has no repeats.
    """

    def enable(self, query: Query) -> bool:
        """True if posts may come back at all."""
        return query.may_repeat(0)

    def hydrate(self, query: Query, candidates: Candidates) -> Candidates:
        """Set `repeat` and `repeat_at`; where the other sources found ample, only of posts from RepeatSource."""
        known = candidates.source == _REPEAT
        if (~known).sum() < AMPLE:
            known[:] = True
        elif not known.any():
            return candidates
        some = candidates.take(known)
        marks, times = np.zeros(len(candidates), np.uint8), np.zeros(len(candidates), np.int64)
        marks[known] = _marks(query, some)
        times[known] = np.where(marks[known] != NEW, _times(query, some), 0)
        return candidates.with_columns(repeat=marks, repeat_at=times)


def _marks(query: Query, candidates: Candidates) -> NDArray[np.uint8]:
    served = touches(partial(contains, query.served), candidates)
    marks = np.where(is_seen(query, candidates), SEEN, np.where(served, SERVED, NEW)).astype(np.uint8)
    marks[touches(partial(contains, query.paged), candidates)] = NEW
    return marks


def _times(query: Query, candidates: Candidates) -> NDArray[np.int64]:
    """[n] The newest time of the posts that a candidate shows or answers."""
    last, posts = LastTimes.of(query), candidates.posts
    shown = (posts.post_id, posts.source_post_id, posts.in_reply_to_post_id)
    return np.asarray(reduce(np.maximum, map(last.of_posts, shown)))
