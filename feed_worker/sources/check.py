"""CheckSource: the posts of a request that asks which of them still stand."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Fetched, Source
from thunder_ingest.events.ids import id64
from thunder_ingest.posts.store import PostStore


class CheckSource(Source):
    """The stored ones of the posts in `check_ids`; the only source of such a request.

    The published system has no such source.
    """

    required: ClassVar[bool] = True
    own_thread: ClassVar[bool] = False

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def enable(self, query: Query) -> bool:
        """True for a check."""
        return query.is_check

    def fetch(self, queries: Sequence[Query]) -> list[Fetched]:
        """The posts of each query that are in the store, in its order."""
        return [Fetched(self._found(query)) for query in queries]

    def _found(self, query: Query) -> Candidates:
        post_ids = np.array([id64(published) for published in query.request.check_ids or ()], np.int64)
        with self._store.lock:
            rows = self._store.rows_of(post_ids)
            return Candidates.of_rows(self._store, rows[rows >= 0], "check")
