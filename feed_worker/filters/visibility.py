"""VisibilityFilter, CurrentVisibilityFilter: hide labelled posts and deleted posts."""

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
    """Drops posts with unsafe labels, of accounts that are not active, and posts that refer to such posts.

    `unsafe_labels` hide a post from all viewers, `unsafe_labels_out_of_network` from viewers who do not follow its
    author. Fails closed: a repost or quote of a post that is not stored, because it was deleted, has expired or is
    unknown, is dropped, and so is a reply to such a post. A deleted post at any distance hides a post, too. Mirrors the
    published VFFilter and AncillaryVFFilter. These run after selection only, so dropped posts leave gaps in the feed;
    here labels are also checked before scoring.
    """

    required: ClassVar[bool] = True

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts that the viewer may see."""
        own = self._allowed(query.parameters, candidates.posts.labels, candidates.in_network)
        own &= ~contains(self._store.accounts.inactive, candidates.posts.author_id)
        return np.asarray(own & self._references(query, candidates))

    def _references(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        referred = candidates.related.referred
        followed = contains(query.viewer.following, referred.author_id)
        hidden = contains(self._store.accounts.inactive, referred.author_id) | referred.is_lost
        hidden |= ~self._allowed(query.parameters, referred.labels, followed)
        return ~referred.holds(hidden, len(candidates))

    def _allowed(
        self, parameters: Parameters, labels: NDArray[np.uint64], followed: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        hidden_from_all = np.uint64(self._store.label_mask(parameters.unsafe_labels))
        hidden_from_strangers = np.uint64(self._store.label_mask(parameters.unsafe_labels_out_of_network))
        return np.asarray(((labels & hidden_from_all) == 0) & (followed | ((labels & hidden_from_strangers) == 0)))


class CurrentVisibilityFilter(VisibilityFilter):
    """The same rule for the selected posts, by the store's newest state: a deletion or label may have just arrived."""

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts that are still stored, and that the viewer may see."""
        with self._store.lock:
            rows = self._store.rows_of(candidates.posts.post_id)
            labels = self._store.facts(rows).labels
            related = related_of(self._store, candidates.posts)
        current = candidates.with_related(related)
        own = (rows >= 0) & self._allowed(query.parameters, labels, current.in_network)
        own &= ~contains(self._store.accounts.inactive, candidates.posts.author_id)
        return np.asarray(own & self._references(query, current))
