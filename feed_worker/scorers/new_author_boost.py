"""NewAuthorBoostScorer: a place for those whom few have read yet."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Scorer
from feed_worker.parameters import Parameters
from thunder_ingest.events import IMPRESSION, REPLY, REPOST
from thunder_ingest.posts.store import PostStore

_ASKED_AT_ONCE = 64


class NewAuthorBoostScorer(Scorer):
    """Raises one post of a feed, the best of a new author, to the score at `new_author_slot`.

    It is an original or a quote, little seen, by an author of little reach (see `Parameters`), and within the top
    `new_author_top_share` of the posts that score anything. One that already ranks higher needs no boost, and then none
    is given. Diversity and the out-of-network factor come after, as published, and may lower the post again.
    """

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def enable(self, query: Query) -> bool:
        """Where the parameters say so."""
        return query.parameters.new_author_boost

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Candidates]:
        """Set `boost`."""
        return [
            each.with_columns(boost=self._boost(each, query.parameters))
            for query, each in zip(queries, candidates, strict=True)
        ]

    def _boost(self, candidates: Candidates, parameters: Parameters) -> NDArray[np.float64]:
        boost, score = np.zeros(len(candidates)), candidates.score
        ranking = candidates.ranking()
        ranking = ranking[score[ranking] > 0]
        if parameters.new_author_slot < len(ranking):
            best = self._best(candidates, ranking, parameters)
            boost[best] = np.maximum(score[ranking[parameters.new_author_slot]] - score[best], 0.0)
        return boost

    def _best(self, candidates: Candidates, ranking: NDArray[np.intp], parameters: Parameters) -> NDArray[np.intp]:
        """The position of the best eligible post, or none; of its author the store is asked, a few at a time."""
        posts = candidates.posts
        eligible = (posts.kind != REPLY) & (posts.kind != REPOST)
        eligible &= posts.totals[:, IMPRESSION] < parameters.new_author_max_views
        top = ranking[: int(parameters.new_author_top_share * len(ranking))]
        top = top[eligible[top]]
        new = top[:0]
        for begin in range(0, len(top), _ASKED_AT_ONCE):
            asked = top[begin : begin + _ASKED_AT_ONCE]
            new = asked[self._store.author_views(posts.author_id[asked]) <= parameters.new_author_max_reach]
            if len(new):
                break
        return np.asarray(new[:1])
