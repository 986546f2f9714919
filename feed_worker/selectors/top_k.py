"""TopKSelector: selects the best candidates by score."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Selector


class TopKSelector(Selector):
    """Selects `top_k` candidates for a feed of `result_size`, more for a larger one: post-selection filters drop some.

    Mirrors the published TopKScoreSelector. Ties break by time, then by id, never by the order of arrival, so the same
    state gives the same feed. Posts without predictions come last. Posts that re-ranking dropped are never selected;
    the published system gives them a score of 0 and may fill up the feed with them.
    """

    required: ClassVar[bool] = True

    def select(self, query: Query, candidates: Candidates) -> NDArray[np.intp]:
        """[k] positions, best first."""
        ranking = candidates.ranking()
        chosen = ranking[candidates.dpp[ranking] > 0]
        return chosen[: query.parameters.selected_for(query.size)]
