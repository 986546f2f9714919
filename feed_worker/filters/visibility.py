"""VisibilityFilter, CurrentVisibilityFilter: what is labelled or gone is not shown."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.candidates.related_posts import related_of
from feed_worker.framework.components import Filter
from feed_worker.parameters import Parameters
from thunder_ingest.posts.store import PostStore


class VisibilityFilter(Filter):
    """Drops posts that may not be shown to this viewer, by their own labels and those of what they show or answer.

    `unsafe_labels` hide a post from everybody, `unsafe_labels_out_of_network` from viewers who do not follow its
    author. Fails closed: a repost or quote of a post that the store does not have, because it was deleted, expired, or
    never known, is dropped, since nobody can say what it shows; likewise a reply to such a post. The published system
    asks after selection only, and loses places of the feed to what it finds; here labels are also checked before
    scoring.
    """

    required: ClassVar[bool] = True

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """Posts fit to be shown."""
        own = self._fit(query.parameters, candidates.posts.labels, candidates.in_network)
        return np.asarray(own & self._shown(query, candidates))

    def _shown(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        posts, related, following = candidates.posts, candidates.related, query.viewer.following
        source = self._fit(query.parameters, related.source_labels, contains(following, related.source_author_id))
        parent = self._fit(query.parameters, related.parent_labels, contains(following, posts.in_reply_to_author_id))
        root = self._fit(query.parameters, related.root_labels, candidates.in_network)
        known = related.source_stored | (posts.source_post_id == 0)
        known &= related.parent_stored | (posts.in_reply_to_post_id == 0)
        return np.asarray(source & parent & root & known)

    def _fit(
        self, parameters: Parameters, labels: NDArray[np.uint64], followed: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        for_nobody = np.uint64(self._store.label_mask(parameters.unsafe_labels))
        for_followers = np.uint64(self._store.label_mask(parameters.unsafe_labels_out_of_network))
        return np.asarray(((labels & for_nobody) == 0) & (followed | ((labels & for_followers) == 0)))


class CurrentVisibilityFilter(VisibilityFilter):
    """The same for the few selected posts, by what the store knows now: a deletion or a label may just have arrived."""

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """Posts that are still there and fit to be shown."""
        with self._store.lock:
            rows = self._store.rows_of(candidates.posts.post_id)
            labels = self._store.columns(rows).labels
            related = related_of(self._store, candidates.posts)
        current = candidates.with_related(related)
        return np.asarray(
            (rows >= 0) & self._fit(query.parameters, labels, current.in_network) & self._shown(query, current)
        )
