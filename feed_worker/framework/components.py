"""The kinds of components of a candidate pipeline, with the published names.

A component is a small class that states one rule. It returns its result and changes no argument. The framework calls
`enable`, measures time, counts candidates, checks the result, and handles errors and overruns.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import ClassVar, NamedTuple, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.request_run import Result
from thunder_ingest.users.state import UserState

_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@cache
def _snake_case(name: str) -> str:
    return _WORD_STARTS.sub("_", name).lower()


class Component(Protocol):
    """The common part of all kinds.

    The framework never calls one component from two threads at the same time.

    Attributes:
        required: True if its failure fails the request: for safety rules, and for data that every feed needs. The
            failure of another component becomes a degradation of the feed.
        own_thread: True to call it on a background thread and give it up at the end of its budget: for calls of servers
            and models, and for scans. A direct call costs less.
        waits: True to call it, and the components after it, only after all components before it have returned, because
            it depends on their results. For stages whose components run in parallel.

    """

    required: ClassVar[bool] = False
    own_thread: ClassVar[bool] = False
    waits: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The class name in snake case: its name in funnels, timings, budgets and degradations."""
        return _snake_case(type(self).__name__)

    def enable(self, _query: Query, /) -> bool:
        """True if the component takes part in this request."""
        return True


class QueryFields(TypedDict, total=False):
    """The attributes of a query that a query hydrator may set."""

    user: UserState
    seen: NDArray[np.int64]
    served: NDArray[np.int64]
    paged: NDArray[np.int64]
    first_page_ms: int


class QueryHydrator(Component, Protocol):
    """Reads the viewers' state."""

    own_thread: ClassVar[bool] = True

    def hydrate(self, queries: Sequence[Query], /) -> list[QueryFields]:
        """The new attributes of each query; a second call for the same queries must be safe."""


class Fetched(NamedTuple):
    """The candidates of one query, and the reasons for missing ones, which the feed lists as degradations."""

    candidates: Candidates
    lacking: tuple[str, ...] = ()


class Source(Component, Protocol):
    """Retrieves candidates."""

    own_thread: ClassVar[bool] = True

    def fetch(self, queries: Sequence[Query], /) -> list[Fetched]:
        """Candidates for each query."""


class Hydrator(Component, Protocol):
    """Adds columns to candidates."""

    def hydrate(self, query: Query, candidates: Candidates, /) -> Candidates:
        """The same candidates in the same order, with more columns."""


class Filter(Component, Protocol):
    """Removes candidates, before scoring or after selection."""

    def keep(self, query: Query, candidates: Candidates, /) -> NDArray[np.bool_]:
        """[n] True for candidates that stay."""


class Scorer(Component, Protocol):
    """Computes predictions, a score, or a multiplier of the score."""

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates], /) -> list[Candidates]:
        """The same candidates of each query in the same order, with new values in some columns."""


class Selector(Component, Protocol):
    """Selects and orders candidates after scoring."""

    def select(self, query: Query, candidates: Candidates, /) -> NDArray[np.intp]:
        """[k] positions of distinct candidates, best first."""


class SideEffect(Component, Protocol):
    """Acts on results; no feed depends on it."""

    def run(self, results: Sequence[Result], /) -> None:
        """Act on the results that have candidates; a second call with the same results must be safe."""
