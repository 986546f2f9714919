"""Scripted components, and a pipeline of them."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import (
    Fetched,
    Filter,
    Hydrator,
    QueryFields,
    QueryHydrator,
    Scorer,
    Selector,
    SideEffect,
    Source,
)
from feed_worker.framework.pipeline import Pipeline
from feed_worker.framework.request_run import Result
from feed_worker.selectors.top_k import TopKSelector
from tests.feed_worker.builders import NOW_MS, candidates_in, post, store_of

STORE = store_of(*(post(i, created_at=NOW_MS - i) for i in range(1, 7)))
BOOM = RuntimeError("boom")
LONG_S = 30.0
"""Longer than any step of a test; a wait that reaches it fails the test."""


class Recording(QueryHydrator):
    def __init__(self) -> None:
        self.batches: list[int] = []

    def hydrate(self, queries: Sequence[Query], /) -> list[QueryFields]:
        self.batches.append(len(queries))
        return [{} for _ in queries]


class OneToSix(Source):
    def fetch(self, queries: Sequence[Query], /) -> list[Fetched]:
        return [Fetched(candidates_in(STORE, 1, 2, 3, 4, 5, 6)) for _ in queries]


class PoisonedSource(Source):
    """Fails for user 13."""

    def fetch(self, queries: Sequence[Query], /) -> list[Fetched]:
        if any(each.user_id == 13 for each in queries):
            raise BOOM
        return [Fetched(candidates_in(STORE, 1, 2)) for _ in queries]


class EvenFilter(Filter):
    def keep(self, _query: Query, candidates: Candidates, /) -> NDArray[np.bool_]:
        return np.asarray(candidates.posts.post_id % 2 == 0)


class ScriptedFilter(Filter):
    def __init__(self, answer: Callable[[Candidates], Any]) -> None:
        self._answer = answer

    def keep(self, _query: Query, candidates: Candidates, /) -> NDArray[np.bool_]:
        answer: NDArray[np.bool_] = self._answer(candidates)
        return answer


class RequiredFilter(ScriptedFilter):
    required: ClassVar[bool] = True


class ScriptedHydrator(Hydrator):
    def __init__(self, answer: Callable[[Candidates], Candidates]) -> None:
        self._answer = answer

    def hydrate(self, _query: Query, candidates: Candidates, /) -> Candidates:
        return self._answer(candidates)


class ByIdScorer(Scorer):
    """Larger ids score higher."""

    def score(self, _queries: Sequence[Query], candidates: Sequence[Candidates], /) -> list[Candidates]:
        return [
            each.with_columns(
                weighted=each.posts.post_id.astype(np.float64), predictions=np.zeros_like(each.predictions)
            )
            for each in candidates
        ]


class ScriptedScorer(Scorer):
    def __init__(self, answer: Callable[[Sequence[Candidates]], list[Candidates]]) -> None:
        self._answer = answer

    def score(self, _queries: Sequence[Query], candidates: Sequence[Candidates], /) -> list[Candidates]:
        return self._answer(candidates)


class ScriptedSelector(Selector):
    required: ClassVar[bool] = True

    def __init__(self, answer: Callable[[Candidates], Any]) -> None:
        self._answer = answer

    def select(self, _query: Query, candidates: Candidates, /) -> NDArray[np.intp]:
        answer: NDArray[np.intp] = self._answer(candidates)
        return answer


class Noting(SideEffect):
    def __init__(self, error: Exception | None = None) -> None:
        self.noted: list[Result] = []
        self._error = error

    def run(self, results: Sequence[Result], /) -> None:
        self.noted.extend(results)
        if self._error:
            raise self._error


def pipeline(**stages: Any) -> Pipeline:
    """A pipeline that serves posts 6, 5, 4 …, with the given stages replaced."""
    default: dict[str, Any] = {
        "query_hydrators": [],
        "sources": [OneToSix()],
        "hydrators": [],
        "filters": [],
        "scorers": [ByIdScorer()],
        "selector": TopKSelector(),
        "post_selection_filters": [],
    }
    return Pipeline(**(default | stages))


def shown(result: Result) -> list[int]:
    post_ids: list[int] = result.candidates.posts.post_id.tolist()
    return post_ids


def raising(error: Exception) -> Callable[[Any], Any]:
    def raise_(_: Any) -> Any:
        raise error

    return raise_


class Hanging:
    """A function that blocks until it is released; `ended` is set at its end."""

    def __init__(self) -> None:
        self.let_go, self.ended = threading.Event(), threading.Event()

    def __call__(self) -> None:
        assert self.let_go.wait(LONG_S)
        self.ended.set()


@contextmanager
def hanging() -> Iterator[Hanging]:
    act = Hanging()
    try:
        yield act
    finally:
        act.let_go.set()


def until_idle(tested: Pipeline) -> None:
    """Wait until calls that were given up have ended."""
    end = time.monotonic() + LONG_S
    while any(call.is_running for call in tested._calls.values()):
        assert time.monotonic() < end
        time.sleep(0.001)
