"""PopularSource: popular recent posts, for viewers with few other candidates."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Fetched, Source
from feed_worker.parameters import Parameters
from thunder_ingest.posts.popularity import Popularity
from thunder_ingest.posts.store import PostStore


class PopularSource(Source):
    """Originals and quotes of all authors, by the post store's popularity score; no seen or served posts.

    Solves the cold start: it makes the whole feed of a viewer without history and follows, and fills up the feed of a
    viewer who follows few accounts. The first published version had no such source. What a few accounts can do to a
    post for all viewers is bounded: the negative actions of `popular_few_accounts` change nothing, and one account is
    one voice.
    """

    waits: ClassVar[bool] = True

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def enable(self, query: Query) -> bool:
        """True without history, or with less than `popular_below` candidates so far; False for in-network requests."""
        few = query.found < query.parameters.popular_below
        return not query.request.in_network_only and (few or not query.has_history)

    def fetch(self, queries: Sequence[Query]) -> list[Fetched]:
        """At most `popular_max` candidates for each query, most popular first."""
        enough = max(_limit(query) + len(query.known_ids) for query in queries)
        now_ms = max(query.now_ms for query in queries)
        rules = [popularity_of(query.parameters) for query in queries]
        with self._store.lock:
            rows = {each: self._store.popular(now_ms, enough, each) for each in set(rules)}
            return [Fetched(self._unknown(query, rows[each])) for query, each in zip(queries, rules, strict=True)]

    def _unknown(self, query: Query, rows: NDArray[np.int64]) -> Candidates:
        new = rows[~np.isin(rows, self._store.rows_of(query.known_ids))]
        return Candidates.of_rows(self._store, new[: _limit(query)], "popular")


def _limit(query: Query) -> int:
    return query.scaled_limit(query.parameters.popular_max)


def popularity_of(parameters: Parameters) -> Popularity:
    """The rules of popularity."""
    return Popularity(
        parameters.popular_negative_weight,
        float(parameters.popular_few_accounts),
        parameters.popular_prior_engagements,
        parameters.popular_prior_impressions,
        float(parameters.popular_half_life_ms),
    )
