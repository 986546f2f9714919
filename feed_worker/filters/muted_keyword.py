"""MutedKeywordFilter: applies muted keywords."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter
from thunder_ingest.events.muting import phrases_of
from thunder_ingest.posts.store import PostStore


class MutedKeywordFilter(Filter):
    """Drops posts that contain a muted keyword: `cat` mutes `Cat!` and `#cat`, not `concatenate` (`events.muting`).

    Mirrors the published MutedKeywordFilter. The whole text is searched, however long. Beyond the published filter, the
    texts of all posts that a post refers to are searched, at any distance, those of answered posts only if
    `mutes_cover_parents` is True; and emoji and signs can be muted.
    """

    required: ClassVar[bool] = True

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def enable(self, query: Query) -> bool:
        """True if the viewer has muted keywords."""
        return len(query.viewer.keywords) > 0

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts without a muted phrase."""
        phrases = phrases_of(query.viewer.keywords, query.parameters.keywords_ignore_accents)
        referred = candidates.related.referred
        found = ~referred.is_above | query.parameters.mutes_cover_parents
        muted = self._store.contain_any(candidates.posts.post_id, phrases)
        found[found] = self._store.contain_any(referred.post_id[found], phrases)
        return np.asarray(~(muted | referred.holds(found, len(candidates))))
