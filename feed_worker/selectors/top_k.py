"""TopKSelector: the best by score."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Selector


class TopKSelector(Selector):
    """Takes `top_k` for a feed of `result_size`, more for a larger one, so that filters after it leave enough.

    Ties break by time, then by id, never by the order of arrival, so that the same state gives the same feed. Posts
    without predictions come after all others. What re-ranking did not choose is not selected, however few it chose: the
    published system gives it a score of 0, and fills up with it.
    """

    required: ClassVar[bool] = True

    def select(self, query: Query, candidates: Candidates) -> NDArray[np.intp]:
        """Best first."""
        ranking = candidates.ranking()
        chosen = ranking[candidates.dpp[ranking] > 0]
        return chosen[: query.parameters.selected_for(query.size)]
