"""AuthorDiversityScorer: lowers repeated posts of one author."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Scorer
from feed_worker.parameters import Parameters


class AuthorDiversityScorer(Scorer):
    """Multiplies the score of an author's k-th post, by score and from 0, with `(1 - floor) * decay ** k + floor`.

    Mirrors the author diversity of the published RankingScorer, over the whole scored pool. A repost counts for the
    original author. The published rule counts it for the reposting account, so five accounts can fill a feed with one
    author's posts.
    """

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Candidates]:
        """Set `diversity`."""
        return [
            each.with_columns(diversity=_multipliers(each, query.parameters))
            for query, each in zip(queries, candidates, strict=True)
        ]


def _multipliers(candidates: Candidates, parameters: Parameters) -> NDArray[np.float64]:
    floor = parameters.author_diversity_floor
    places = _places(candidates.original_author_id, candidates.ranking())
    return (1 - floor) * parameters.author_diversity_decay ** places.astype(np.float64) + floor


def _places(authors: NDArray[np.int64], ranking: NDArray[np.intp]) -> NDArray[np.intp]:
    """[n] The number of posts of the same author that rank above each post."""
    by_author = ranking[np.argsort(authors[ranking], kind="stable")]
    starts = np.flatnonzero(np.diff(authors[by_author], prepend=-1))
    lengths = np.diff(starts, append=len(authors))
    places = np.empty(len(authors), np.intp)
    places[by_author] = np.arange(len(authors)) - np.repeat(starts, lengths)
    return places
