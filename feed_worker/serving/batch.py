"""A batch of computations, and the pipeline's steps over it: what befalls one request stays its own."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import redis

from feed_worker.candidates.query import Query
from feed_worker.framework.pipeline import Pipeline
from feed_worker.framework.request_run import NO_CANDIDATES, RequestRun, Result
from feed_worker.serving.admission import Refusal
from feed_worker.serving.intake import DeadLetterRecord
from feed_worker.serving.request_queue import MergedRequest, MessageOffset
from infra.ports.redis import Patience, StopRequested
from thunder_ingest.events import FeedStatus

log = logging.getLogger(__name__)

_ENDS: Final = (StopRequested, redis.AuthenticationError)
"""What is no request's fault: it ends the worker, and the next one computes the batch again."""


@dataclass(eq=False)
class Computation:
    """One computation on its way; it ends with a result, whatever happens."""

    asked: MergedRequest
    query: Query
    run: RequestRun | None = None
    result: Result | None = None

    def skip_side_effects(self) -> None:
        """End with what was found, and leave the viewer's state as it is."""
        if self.run is not None and self.result is None:
            self.result = self.run.result()

    def end(self, status: FeedStatus, reason: str) -> None:
        """End without a feed."""
        self.query.degradations.append(reason)
        self.result = Result(
            query=self.query, candidates=NO_CANDIDATES, status=status, funnel=[], dropped=[], timings_ms={}
        )


@dataclass(eq=False)
class Batch:
    """What passes through the worker together.

    Attributes:
        runner: what it is made with, from its first step to its last.
        computations: one for each viewer at most.
        dead_letters: messages that are no requests, to be put away whole.
        formed_at: `time.monotonic()` when it was formed.

    """

    runner: "BatchRunner"
    computations: list[Computation]
    dead_letters: list[DeadLetterRecord]
    formed_at: float
    viewers: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.viewers = {each.asked.viewer for each in self.computations}

    @property
    def places(self) -> list[MessageOffset]:
        """Where everything in it stood in Kafka."""
        requests = [taken.place for each in self.computations for taken in each.asked.taken]
        return requests + [each.place for each in self.dead_letters]


_Step: TypeAlias = Callable[[list[Computation]], None]


class BatchRunner:
    """The three steps of the pipeline of one model over batches, each called from a thread of its own.

    The pipeline keeps the mistakes of components to the requests that they concern. Should a step itself raise, its
    requests are computed once more, each alone, and those that raise again are `failed`.

    Args:
        pipeline: what is run.
        model_version: of the model that it asks.
        patience: waits for Redis where the pipeline cannot do without.
        fresh: a new query for what is asked, with the quality of an earlier one: a batch is never run twice with the
            same queries.

    """

    def __init__(
        self, pipeline: Pipeline, model_version: str, patience: Patience, fresh: Callable[[Query], Query]
    ) -> None:
        self.pipeline, self.model_version, self._patience, self._fresh = pipeline, model_version, patience, fresh

    def gather(self, computations: Sequence[Computation]) -> None:
        """Find the candidates of what is not refused."""
        self._isolated(self._gather, computations)

    def rank(self, computations: Sequence[Computation]) -> None:
        """Score and select."""

        def again(each: list[Computation]) -> None:
            self._gather(each)
            self._rank(each)

        self._isolated(self._rank, computations, again)

    def finish(self, computations: Sequence[Computation]) -> None:
        """Make results and let side effects happen: what was served is in Redis before anybody hears of it."""
        self._isolated(self._finish, computations)

    def _gather(self, computations: list[Computation]) -> None:
        def attempt() -> list[RequestRun]:
            for each in computations:
                each.query = self._fresh(each.query)
            return self.pipeline.gather([each.query for each in computations])

        for each, run in zip(computations, self._patience.run(attempt), strict=True):
            each.run = run

    def _rank(self, computations: list[Computation]) -> None:
        self.pipeline.rank(_runs(computations))

    def _finish(self, computations: list[Computation]) -> None:
        results = self._patience.run(lambda: self.pipeline.finish(_runs(computations)))
        for each, result in zip(computations, results, strict=True):
            each.result = result

    def _isolated(self, step: _Step, computations: Sequence[Computation], again: _Step | None = None) -> None:
        going = [each for each in computations if each.result is None]
        try:
            if going:
                step(going)
        except _ENDS:
            raise
        except Exception as error:  # a mistake of ours must neither end the worker nor take other requests with it
            log.error("a batch of %d failed; each request is tried alone", len(going), exc_info=error)
            for each in going:
                self._alone(again or step, each)

    def _alone(self, step: _Step, computation: Computation) -> None:
        try:
            step([computation])
        except _ENDS:
            raise
        except Exception as error:  # it would fail for the next worker too
            log.error("request %s failed", computation.asked.request.request_id, exc_info=error)
            computation.end("failed", type(error).__name__)


def refused(asked: MergedRequest, query: Query, refusal: Refusal) -> Computation:
    """A computation that has ended before it began."""
    computation = Computation(asked, query)
    computation.end(*refusal)
    return computation


def _runs(computations: Sequence[Computation]) -> list[RequestRun]:
    return [each.run for each in computations if each.run is not None]
