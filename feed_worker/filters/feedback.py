"""FeedbackFilter: applies the viewer's own reports and "not interested"."""

from functools import partial
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.filters.previously_seen import touches
from feed_worker.framework.components import Filter
from thunder_ingest.events import ACTION_INDEX

_HIDING: Final = 1 << ACTION_INDEX["report"] | 1 << ACTION_INDEX["not_interested"]


class FeedbackFilter(Filter):
    """Drops posts that the viewer reported or is not interested in, and posts that refer to one, at any distance.

    A report hides a post from its reporter at once; what the reports of a few accounts do to all other viewers is
    bounded (`popular_few_accounts`). An action counts until it is undone, while its post is in the viewer's history. A
    post that left the history is still a seen post.
    """

    required: ClassVar[bool] = True

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts without such feedback of the viewer."""
        positions = query.viewer.positions
        hidden = np.unique(positions["post_id"][(positions["actions"] & _HIDING) != 0])
        referred = candidates.related.referred
        further = referred.holds(contains(hidden, referred.post_id), len(candidates))
        return np.asarray(~(touches(partial(contains, hidden), candidates) | further))
