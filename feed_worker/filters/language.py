"""LanguageFilter: only languages that the viewer reads, if the app names them."""

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter
from thunder_ingest.posts.store import PostStore


class LanguageFilter(Filter):
    """Drops posts in other languages than the request names, and reposts of them; what has no language stays.

    The published system has no such filter.
    """

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def enable(self, query: Query) -> bool:
        """Where the request names any."""
        return bool(query.request.langs)

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """Posts in one of the languages, or in none that is known."""
        return np.isin(candidates.posts.lang, readable(query, self._store))


def readable(query: Query, store: PostStore) -> NDArray[np.int64]:
    """The codes of the languages that the request names, and that of an unknown one."""
    return np.append(store.languages_in(query.request.langs or ()), 0)
