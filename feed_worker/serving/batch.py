"""A batch of computations, and the runner that isolates failures per request."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from feed_worker.candidates.query import Query
from feed_worker.framework.pipeline import Pipeline
from feed_worker.framework.request_run import NO_CANDIDATES, RequestRun, Result
from feed_worker.serving.admission import Refusal
from feed_worker.serving.intake import DeadLetterRecord
from feed_worker.serving.offsets import MessageOffset
from feed_worker.serving.request_queue import MergedRequest
from infra.ports.errors import RedisRefused, StopRequested
from infra.ports.redis import RedisRetry
from thunder_ingest.events import FeedStatus

log = logging.getLogger(__name__)

_FATAL: Final = (StopRequested, RedisRefused)
"""Errors that no request causes: they end the worker, and the next one computes the batch again."""


@dataclass(eq=False)
class Computation:
    """One computation in progress; it always ends with a result.

    Attributes:
        merged: the requests that it answers.
        query: the pipeline's input.
        run: the state within the pipeline; None before `gather`.
        result: None until it has ended.

    """

    merged: MergedRequest
    query: Query
    run: RequestRun | None = None
    result: Result | None = None

    def skip_side_effects(self) -> None:
        """End with the candidates found so far; the side effects, which change the viewer's state, do not run."""
        if self.run is not None and self.result is None:
            self.result = self.run.result()

    def end(self, status: FeedStatus, reason: str) -> None:
        """End without items; `reason` becomes a degradation of the feed."""
        self.query.degradations.append(reason)
        self.result = Result(
            query=self.query, candidates=NO_CANDIDATES, status=status, funnel=[], dropped=[], timings_ms={}
        )


@dataclass(eq=False)
class Batch:
    """A micro-batch: the computations that pass through the worker's threads together.

    Attributes:
        runner: the pipeline and model that compute it, from the first step to the last.
        computations: at most one a viewer.
        dead_letters: invalid messages, written to `dead-letters` with the batch.
        formed_at_s: the time of its forming, by `time.monotonic()`.
        viewers: those with a computation in progress; a refusal is none.

    """

    runner: "BatchRunner"
    computations: list[Computation]
    dead_letters: list[DeadLetterRecord]
    formed_at_s: float
    viewers: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.viewers = {each.merged.viewer for each in self.computations if each.result is None}

    @property
    def messages(self) -> list[MessageOffset]:
        """The places in Kafka of all its messages."""
        requests = [received.message for each in self.computations for received in each.merged.received]
        return requests + [each.message for each in self.dead_letters]


_Step: TypeAlias = Callable[[list[Computation]], None]


class BatchRunner:
    """Runs the three steps of one model's pipeline over batches.

    `gather` belongs to the intake thread, `rank` to the ranking thread, `finish` to the delivery thread.

    The pipeline itself isolates errors of components. If a whole step raises, each of its requests is computed once
    more, alone; a request that raises again ends as `failed`.

    Args:
        pipeline: of one model.
        model_version: of that model.
        redis_retry: repeats commands during an outage of Redis.
        requery: makes a new query for the same request, with the same quality: a retry never reuses a query, which
            the first run has changed.

    """

    def __init__(
        self, pipeline: Pipeline, model_version: str, redis_retry: RedisRetry, requery: Callable[[Query], Query]
    ) -> None:
        self.pipeline, self.model_version = pipeline, model_version
        self._redis_retry, self._requery = redis_retry, requery

    def gather(self, computations: Sequence[Computation]) -> None:
        """Find, hydrate and filter the candidates of computations that are not refused."""
        self._isolated(self._gather, computations)

    def rank(self, computations: Sequence[Computation]) -> None:
        """Score and select."""

        def retry(each: list[Computation]) -> None:
            self._gather(each)
            self._rank(each)

        self._isolated(self._rank, computations, retry)

    def finish(self, computations: Sequence[Computation]) -> None:
        """Make the results and run the side effects: served posts are in Redis before a reader sees the feed."""
        self._isolated(self._finish, computations)

    def _gather(self, computations: list[Computation]) -> None:
        def attempt() -> list[RequestRun]:
            for each in computations:
                each.query = self._requery(each.query)
            return self.pipeline.gather([each.query for each in computations])

        for each, run in zip(computations, self._redis_retry.run(attempt), strict=True):
            each.run = run

    def _rank(self, computations: list[Computation]) -> None:
        self.pipeline.rank(_runs(computations))

    def _finish(self, computations: list[Computation]) -> None:
        results = self._redis_retry.run(lambda: self.pipeline.finish(_runs(computations)))
        for each, result in zip(computations, results, strict=True):
            each.result = result

    def _isolated(self, step: _Step, computations: Sequence[Computation], retry: _Step | None = None) -> None:
        open_ = [each for each in computations if each.result is None]
        try:
            if open_:
                step(open_)
        except _FATAL:
            raise
        except Exception as error:  # a defect must neither end the worker nor fail the other requests
            log.error("a batch of %d failed; each request is tried alone", len(open_), exc_info=error)
            for each in open_:
                self._alone(retry or step, each)

    def _alone(self, step: _Step, computation: Computation) -> None:
        try:
            step([computation])
        except _FATAL:
            raise
        except Exception as error:  # the next worker would fail, too
            log.error("request %s failed", computation.merged.request.request_id, exc_info=error)
            computation.end("failed", type(error).__name__)


def refused(merged: MergedRequest, query: Query, refusal: Refusal) -> Computation:
    """A computation that has ended without work."""
    computation = Computation(merged, query)
    computation.end(*refusal)
    return computation


def _runs(computations: Sequence[Computation]) -> list[RequestRun]:
    return [each.run for each in computations if each.run is not None]
