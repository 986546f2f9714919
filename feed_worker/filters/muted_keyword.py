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
    text of the reposted or quoted post is searched, and emoji and signs can be muted.
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
        posts = candidates.posts
        muted = self._store.contain_any(posts.post_id, phrases)
        quoting = np.flatnonzero(posts.source_post_id)
        muted[quoting] |= self._store.contain_any(posts.source_post_id[quoting], phrases)
        return ~muted
