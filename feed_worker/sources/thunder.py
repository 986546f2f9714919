"""ThunderSource: in-network posts."""

from collections.abc import Sequence

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Fetched, Source
from thunder_ingest.posts.store import PostStore


class ThunderSource(Source):
    """Posts of followed accounts, newest first, by the read rules of the post store; no seen or served posts.

    Mirrors the published ThunderSource; the store is in this process, not behind a service.
    """

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def fetch(self, queries: Sequence[Query]) -> list[Fetched]:
        """At most `in_network_max` candidates for each query."""
        return [Fetched(self._found(query)) for query in queries]

    def _found(self, query: Query) -> Candidates:
        limit = query.scaled_limit(query.parameters.in_network_max)
        with self._store.lock:
            rows = self._store.in_network(query.viewer.following, query.user_id, query.known_ids, query.now_ms, limit)
            return Candidates.of_rows(self._store, rows, "thunder")
