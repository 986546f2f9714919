"""UserStateHydrator: reads the viewer's history, graph, muted keywords, seen and served posts."""

from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.id_sets import union
from feed_worker.candidates.ports import UserStateStore
from feed_worker.candidates.query import NO_IDS, Query
from feed_worker.framework.components import QueryFields, QueryHydrator
from infra.ports.errors import StateMissing
from thunder_ingest.users.state import StateLimits, UserState

_SERVED_KEPT: Final = StateLimits().served


class UserStateHydrator(QueryHydrator):
    """Reads the state of all viewers of a batch in one round trip. Required: the state holds the viewer's blocks.

    Mirrors several published query hydrators (user action sequence, followed users, blocks, served history) with one
    read. Only feeds of *earlier* requests count as served, by the arrival of requests: the clocks of apps differ. So a
    request that is computed twice, because a worker died, gets the same posts again.

    A state that was lost is not empty: it had blocks and mutes. Its requests fail, with the reason.
    """

    required: ClassVar[bool] = True
    waits: ClassVar[bool] = True

    def __init__(self, users: UserStateStore) -> None:
        self._users = users

    def hydrate(self, queries: Sequence[Query]) -> list[QueryFields]:
        """The viewer's state, and the ids of seen and served posts, and of those on earlier pages.

        Raises:
            StateMissing: the state of a viewer was lost.
            StateUnreadable: the state of a viewer cannot be read.

        """
        states = self._users.read([query.user_form for query in queries])
        if lost := [query.user_form for query, state in zip(queries, states, strict=True) if not state.is_whole]:
            raise StateMissing(
                f"the state of user {lost[0]} is missing in Redis: run `foryou rebuild users`; see `foryou doctor`"
            )
        return [
            {
                "user": state,
                "seen": union(state.seen, query.requested_seen_ids()),
                "served": _served_before(query, state),
                "paged": _paged(query, state),
                "first_page_ms": 0 if _has_lost_pages(query, state) else query.first_page_ms,
            }
            for query, state in zip(queries, states, strict=True)
        ]


def _served_before(query: Query, state: UserState) -> NDArray[np.int64]:
    age_ms = query.history_ms - state.served_at
    recent = np.flatnonzero((age_ms > 0) & (age_ms <= query.parameters.served_window_ms))
    newest = recent[np.argsort(age_ms[recent], kind="stable")][: query.parameters.served_max]
    return union(_paged(query, state), state.served_ids[newest])


def _has_lost_pages(query: Query, state: UserState) -> bool:
    """True if posts of earlier pages may be missing in the state, which keeps a limited number of served posts."""
    is_full = len(state.served_at) >= _SERVED_KEPT
    return query.request.after is not None and is_full and bool(state.served_at.min() >= query.first_page_ms)


def _paged(query: Query, state: UserState) -> NDArray[np.int64]:
    """The posts of earlier pages; all that were ever served, if the first page is unknown or nothing is repeated."""
    if query.request.after is None:
        return NO_IDS
    is_known = query.parameters.repeat_below and not _has_lost_pages(query, state)
    began_ms = query.first_page_ms if is_known else 0
    return np.unique(state.served_ids[(state.served_at >= began_ms) & (state.served_at < query.history_ms)])
