"""LanguageFilter: keeps the languages that the request names."""

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter
from thunder_ingest.posts.store import PostStore


class LanguageFilter(Filter):
    """Drops posts, and reposts of posts, in languages that the request does not name.

    Primary languages count: `en` matches `EN`, `en-GB` and `eng`. A post in an unknown language (``, `und`) is kept.
    The published system has no such filter.
    """

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def enable(self, query: Query) -> bool:
        """True if the request names languages."""
        return bool(query.request.langs)

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts in one of the languages, or in an unknown language."""
        return np.isin(candidates.posts.lang, self._store.languages_in(query.request.langs or ()))
