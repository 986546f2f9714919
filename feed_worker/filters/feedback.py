"""FeedbackFilter: applies the viewer's own reports and other negative actions."""

from functools import partial
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import contains, union
from feed_worker.candidates.query import Query
from feed_worker.filters.previously_seen import touches
from feed_worker.framework.components import Filter
from thunder_ingest.events import ACTION_INDEX, NEGATIVE_ACTIONS

_HIDING: Final = sum(1 << ACTION_INDEX[name] for name in NEGATIVE_ACTIONS)


class FeedbackFilter(Filter):
    """Drops posts with a negative action of the viewer, and posts that refer to one, at any distance.

    Negative are a report, "not interested", and a block or mute of the author from the post. A report hides a post
    from its reporter at once; what the reports of a few accounts do to all other viewers is bounded
    (`popular_few_accounts`). An action counts until it is undone, also when its post has left the history.
    """

    required: ClassVar[bool] = True

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts without a negative action of the viewer."""
        positions = query.viewer.positions
        hidden = union(query.viewer.rejected, positions["post_id"][(positions["actions"] & _HIDING) != 0])
        referred = candidates.related.referred
        further = referred.holds(contains(hidden, referred.post_id), len(candidates))
        return np.asarray(~(touches(partial(contains, hidden), candidates) | further))
