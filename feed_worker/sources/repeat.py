"""RepeatSource: posts that the viewer was served or has seen, for viewers with few new ones."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Int64

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import AMPLE, NO_IDS, Query
from feed_worker.candidates.repeats import LastTimes
from feed_worker.framework.components import Fetched, Source
from thunder_ingest.events import REPLY, REPOST
from thunder_ingest.posts.store import PostStore


class RepeatSource(Source):
    """The posts that the other sources skip because the viewer knows them: first served ones, then seen ones.

    A small app runs out of new posts; without repeats its feeds would be empty. All filters apply to repeats as to new
    posts. A repeat is one that another source would find if the viewer did not know it: an original or a quote of any
    account, and a reply or repost by the read rules of the post store. The published system has no such source.
    """

    waits: ClassVar[bool] = True
    own_thread: ClassVar[bool] = False

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def enable(self, query: Query) -> bool:
        """True if the other sources found few candidates, or if the request restricts them."""
        return query.may_repeat(query.found)

    def fetch(self, queries: Sequence[Query]) -> list[Fetched]:
        """At most `repeat_max` candidates for each query: served before seen, oldest first.

        A request with ample candidates, which may all be in another language, gets no more than one feed of them.
        """
        return [Fetched(self._found(query)) for query in queries]

    def _found(self, query: Query) -> Candidates:
        parameters = query.parameters
        most = parameters.repeat_max if query.found < AMPLE else parameters.selected_for(query.size)
        post_ids = _oldest_first(query)
        with self._store.lock:
            rows = self._store.rows_of(post_ids)
            rows = rows[rows >= 0][: 2 * parameters.repeat_max]  # enough, though some are no candidates
            return Candidates.of_rows(self._store, rows[self._would_be_found(query, rows)][:most], "repeat")

    def _would_be_found(self, query: Query, rows: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """True for the rows that another source would find, and that fit the request."""
        posts, request = self._store.columns(rows), query.request
        is_repost = posts.kind == REPOST  # the restrictions apply to its original
        fits = is_repost | (posts.video_ms == 0) if request.exclude_videos else np.ones(len(rows), np.bool_)
        if request.langs:
            fits &= is_repost | np.isin(posts.lang, self._store.languages_in(request.langs))
        in_network_only = (posts.kind == REPLY) | is_repost | bool(request.in_network_only)
        if not (fits & in_network_only).any():
            return np.asarray(fits)
        following, limit = query.viewer.following, query.parameters.in_network_max
        read = self._store.in_network(following, query.user_id, NO_IDS, query.now_ms, limit)
        return np.asarray(fits & (~in_network_only | np.isin(rows, read)))


def _oldest_first(query: Query) -> Int64[np.ndarray, " n"]:
    """The ids of served posts, then of seen posts, each oldest first; none of an earlier page."""
    known = query.known_ids
    known = known[~contains(query.paged, known)]
    return known[np.lexsort((LastTimes.of(query).of_posts(known), contains(query.seen, known)))]
