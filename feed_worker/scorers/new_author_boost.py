"""NewAuthorBoostScorer: raises one post of a little-read author (exploration)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import NEW, Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Scorer
from feed_worker.parameters import Parameters
from thunder_ingest.events import IMPRESSION, REPLY, REPOST
from thunder_ingest.posts.store import PostStore

_LOOKUP_CHUNK = 64


class NewAuthorBoostScorer(Scorer):
    """Raises the best eligible post of a new author to the score at `new_author_slot`; one post a feed.

    Eligible are originals and quotes with few views, of authors with little reach (see `Parameters`), in the top
    `new_author_top_share` of new posts with a score above 0. If the best eligible post already ranks higher, no post is
    raised. Mirrors the published new-author boost with its fixed threshold, not its variant by Thompson sampling
    (Thompson, 1933). As published, author diversity and the out-of-network factor apply later and may lower the post.
    """

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def enable(self, query: Query) -> bool:
        """True if the parameters enable it."""
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
        ranking = ranking[(score > 0)[ranking] & (candidates.repeat == NEW)[ranking]]
        if parameters.new_author_slot < len(ranking):
            best = self._best(candidates, ranking, parameters)
            boost[best] = np.maximum(score[ranking[parameters.new_author_slot]] - score[best], 0.0)
        return boost

    def _best(self, candidates: Candidates, ranking: NDArray[np.intp], parameters: Parameters) -> NDArray[np.intp]:
        """[0 or 1] the position of the best eligible post; looks up the authors' reach in chunks, best posts first."""
        posts = candidates.posts
        eligible = (posts.kind != REPLY) & (posts.kind != REPOST)
        eligible &= posts.totals[:, IMPRESSION] < parameters.new_author_max_views
        top = ranking[: int(parameters.new_author_top_share * len(ranking))]
        top = top[eligible[top]]
        new = top[:0]
        for begin in range(0, len(top), _LOOKUP_CHUNK):
            chunk = top[begin : begin + _LOOKUP_CHUNK]
            new = chunk[self._store.author_views(posts.author_id[chunk]) <= parameters.new_author_max_reach]
            if len(new):
                break
        return np.asarray(new[:1])
