"""MutedKeywordFilter: applies muted keywords."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter
from thunder_ingest.events.text import token_hashes
from thunder_ingest.posts.store import PostStore


class MutedKeywordFilter(Filter):
    """Drops posts that contain the tokens of a muted phrase: `cat` mutes `Cat!` and `#cat`, not `concatenate`.

    Mirrors the published MutedKeywordFilter. The whole text is searched, however long. Beyond the published filter, the
    text of the reposted or quoted post is searched, too.
    """

    required: ClassVar[bool] = True

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def enable(self, query: Query) -> bool:
        """True if the viewer has muted keywords."""
        return len(query.viewer.keywords) > 0

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts without a muted phrase."""
        phrases = [phrase for phrase in map(token_hashes, query.viewer.keywords) if len(phrase)]
        posts = candidates.posts
        with self._store.lock:
            muted = self._contain_any(posts.post_id, phrases)
            quoting = np.flatnonzero(posts.source_post_id)
            muted[quoting] |= self._contain_any(posts.source_post_id[quoting], phrases)
        return ~muted

    def _contain_any(self, post_ids: NDArray[np.int64], phrases: list[NDArray[np.uint32]]) -> NDArray[np.bool_]:
        rows = self._store.rows_of(post_ids)
        tokens = self._store.columns(rows).tokens
        # few posts contain the first word of a phrase; a text that fills its row may continue in the store
        first_words = np.array([phrase[0] for phrase in phrases], np.uint32)
        suspects = np.flatnonzero(np.isin(tokens, first_words).any(axis=1) | (tokens[:, -1] != 0))
        found = np.zeros(len(rows), np.bool_)
        for phrase in phrases:
            found[suspects] |= self._store.contains_phrase(rows[suspects], phrase)
        return found
