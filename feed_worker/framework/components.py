"""The kinds of components that a pipeline is made of.

A component is a small class that states one rule. The framework asks whether it is enabled, times it, counts what goes
in and out, checks what it returns, and decides what its failure or its taking too long means, so that no component has
a line for that. A component changes nothing of what it is given; what it found out it returns.
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
    """What all kinds have in common.

    Attributes:
        required: whether its failure fails the request (safety, and what no feed can do without). The failure of any
            other component is noted in the feed as a degradation.
        own_thread: whether it is called on a thread of its own, for the whole batch, and given up when its budget is
            over: for what waits for a server or a model, or scans. Others are called at once, which takes less.
        waits: among components that are asked at the same time: whether this one, and those after it, is asked only
            when all before it have answered, because it goes by what they found.

    """

    required: ClassVar[bool] = False
    own_thread: ClassVar[bool] = False
    waits: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The class's name in snake case; what funnels, timings, budgets and degradations call it."""
        return _snake_case(type(self).__name__)

    def enable(self, _query: Query, /) -> bool:
        """Whether the component has a part in this request."""
        return True


class QueryFields(TypedDict, total=False):
    """What a query hydrator knows: values for these attributes of a query."""

    user: UserState
    seen: NDArray[np.int64]
    served: NDArray[np.int64]


class QueryHydrator(Component, Protocol):
    """Reads what is known about the viewers."""

    own_thread: ClassVar[bool] = True

    def hydrate(self, queries: Sequence[Query], /) -> list[QueryFields]:
        """What is now known of each query; may be called again for the same ones."""


class Fetched(NamedTuple):
    """What a source found for a query, which may be nothing, and what it lacked to find more: the feed quotes that."""

    candidates: Candidates
    lacking: tuple[str, ...] = ()


class Source(Component, Protocol):
    """Finds candidates."""

    own_thread: ClassVar[bool] = True

    def fetch(self, queries: Sequence[Query], /) -> list[Fetched]:
        """Candidates for each query."""


class Hydrator(Component, Protocol):
    """Adds columns to candidates."""

    def hydrate(self, query: Query, candidates: Candidates, /) -> Candidates:
        """The same candidates, in the same order."""


class Filter(Component, Protocol):
    """Takes candidates out, before scoring or after selection."""

    def keep(self, query: Query, candidates: Candidates, /) -> NDArray[np.bool_]:
        """[n] which candidates stay."""


class Scorer(Component, Protocol):
    """Computes predictions, a score, or a multiplier of it."""

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates], /) -> list[Candidates]:
        """The same candidates of each query, in the same order."""


class Selector(Component, Protocol):
    """Chooses and orders what goes on after scoring."""

    def select(self, query: Query, candidates: Candidates, /) -> NDArray[np.intp]:
        """[k] positions of distinct candidates, best first."""


class SideEffect(Component, Protocol):
    """Does something with results that no feed depends on."""

    def run(self, results: Sequence[Result], /) -> None:
        """Take note of results that have something to show."""
