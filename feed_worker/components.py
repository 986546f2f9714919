"""The kinds of components that a pipeline is made of.

A component is a small class that states one rule. The framework asks whether it is enabled, times it, counts what goes
in and out, checks what it returns, and decides what its failure means, so that no component has a line for that.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates import Candidates
from feed_worker.query import Query

if TYPE_CHECKING:
    from feed_worker.framework import Result

_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Component(Protocol):
    """What all kinds have in common.

    Attributes:
        required: whether its failure fails the request (safety, and what no feed can do without). The failure of any
            other component is noted in the feed as a degradation.

    """

    required: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The class's name in snake case; what funnels, timings and degradations call it."""
        return _WORD_STARTS.sub("_", type(self).__name__).lower()

    def enable(self, _query: Query, /) -> bool:
        """Whether the component has a part in this request."""
        return True


class QueryHydrator(Component, Protocol):
    """Reads what is known about the viewers."""

    def hydrate(self, queries: Sequence[Query], /) -> None:
        """Fill in queries; may be called again for the same ones."""


class Source(Component, Protocol):
    """Finds candidates."""

    def fetch(self, queries: Sequence[Query], /) -> list[Candidates]:
        """Candidates for each query; may be empty."""


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

    def run(self, results: Sequence["Result"], /) -> None:
        """Take note of results that have something to show."""
