"""MutedKeywordFilter: words that the viewer does not want to read."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter
from thunder_ingest.events.text import token_hashes
from thunder_ingest.posts.store import PostStore


class MutedKeywordFilter(Filter):
    """Drops posts that contain a muted phrase, token for token: `cat` mutes `Cat!` and `#cat`, not `concatenate`.

    Long texts are read to their end. Beyond the published rule, a phrase also counts in the text of what is reposted
    or quoted.
    """

    required: ClassVar[bool] = True

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def enable(self, query: Query) -> bool:
        """Where anything is muted."""
        return len(query.viewer.keywords) > 0

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """Posts without any muted phrase."""
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
        # few posts have even the first word of a phrase; of a text that fills its row only the store knows the rest
        first_words = np.array([phrase[0] for phrase in phrases], np.uint32)
        suspects = np.flatnonzero(np.isin(tokens, first_words).any(axis=1) | (tokens[:, -1] != 0))
        found = np.zeros(len(rows), np.bool_)
        for phrase in phrases:
            found[suspects] |= self._store.contains_phrase(rows[suspects], phrase)
        return found
