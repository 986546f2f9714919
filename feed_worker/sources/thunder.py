"""ThunderSource: posts of the accounts that the viewer follows."""

from collections.abc import Sequence

from feed_worker.candidates import Candidates
from feed_worker.components import Fetched, Source
from feed_worker.query import Query
from thunder_ingest.post_store import PostStore


class ThunderSource(Source):
    """In-network posts, newest first, by the read rules of the post store; seen and served ones are not fetched."""

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def fetch(self, queries: Sequence[Query]) -> list[Fetched]:
        """At most `in_network_max` for each query."""
        return [Fetched(self._found(query)) for query in queries]

    def _found(self, query: Query) -> Candidates:
        limit = query.limited(query.parameters.in_network_max)
        with self._store.lock:
            rows = self._store.in_network(query.viewer.following, query.user_id, query.known_ids, query.now_ms, limit)
            return Candidates.of_rows(self._store, rows, "thunder")
