"""PhoenixRetrievalSource: out-of-network posts by two-tower retrieval."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.model_inputs import history_of
from feed_worker.candidates.ports import ModelEngine
from feed_worker.candidates.query import NO_IDS, Query
from feed_worker.framework.components import Fetched, Source
from feed_worker.sources.stand_in import with_stand_in
from phoenix.index.retrieval_index import Mask, VectorIndex
from thunder_ingest.posts.store import PostStore


class PhoenixRetrievalSource(Source):
    """The posts with the largest dot product with the viewer's vector: exact search, vectors of one model version.

    Mirrors the published PhoenixSource. Disabled for in-network requests, and for viewers who have neither history nor
    follows. Posts that have left the post store are skipped. An index without vectors becomes a degradation. Beyond
    the published source, the search masks posts that later filters would drop by author, label, language or video, and
    seen and served posts, so that these take no other post's place. Posts for followers only come from ThunderSource.

    The published source gives viewers without history nothing. With `stand_in_posts` they have the vector of a viewer
    who liked posts by the followed accounts (`with_stand_in`), and the search masks these accounts.
    """

    def __init__(self, store: PostStore, index: VectorIndex, model: ModelEngine) -> None:
        self._store, self._index, self._model = store, index, model

    def enable(self, query: Query) -> bool:
        """True for viewers with history or a stand-in for it, unless the request is in-network only."""
        return (query.has_history or query.needs_stand_in) and not query.request.in_network_only

    def fetch(self, queries: Sequence[Query]) -> list[Fetched]:
        """At most `retrieval_max` candidates for each query, most similar first."""
        readers = [query if query.has_history else with_stand_in(query, self._store) for query in queries]
        vectors = self._model.embed_users(history_of(readers, self._store, self._model.config))
        k = max(query.parameters.retrieval_max for query in queries)  # not scaled: an index may compile for each k
        masks = [self._mask(query) for query in queries]
        ids, scores = self._index.search(vectors, k, self._model.version, masks)
        found = [self._found(*each) for each in zip(readers, ids, scores, strict=True)]
        if self._index.count(self._model.version) or not len(self._store):
            return list(map(Fetched, found))
        lacking = (
            f"no vectors of model {self._model.version}",
        )  # other sources make the feed of a viewer without history
        return [Fetched(each, lacking * query.has_history) for query, each in zip(queries, found, strict=True)]

    def _mask(self, query: Query) -> Mask:
        viewer, parameters = query.viewer, query.parameters
        known = NO_IDS if query.has_history else viewer.following
        return Mask(
            without_authors=np.concatenate([viewer.blocks, viewer.blocked_by, viewer.mutes, known, [query.user_id]]),
            without_posts=query.known_ids,
            without_labels=self._store.label_mask(parameters.unsafe_labels | parameters.unsafe_labels_out_of_network),
            video=not query.request.exclude_videos,
            languages=self._store.languages_in(query.request.langs) if query.request.langs else None,
        )

    def _found(self, query: Query, ids: NDArray[np.int64], scores: NDArray[np.float32]) -> Candidates:
        limit = query.scaled_limit(query.parameters.retrieval_max) if query.has_history else 0  # not even a stand-in
        with self._store.lock:
            rows = self._store.rows_of(ids)
            usable = np.flatnonzero(rows >= 0)[:limit]
            posts = self._store.columns(rows[usable])
        return Candidates.of(posts, "phoenix_retrieval", scores[usable].astype(np.float32))
