"""A batch of computations, and the runner that isolates failures per request."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

from feed_worker.candidates.query import Query
from feed_worker.framework.pipeline import Pipeline
from feed_worker.framework.request_run import NO_CANDIDATES, RequestRun, Result
from feed_worker.serving.admission import Refusal
from feed_worker.serving.intake import DeadLetterRecord
from feed_worker.serving.offsets import MessageOffset
from feed_worker.serving.request_queue import MergedRequest
from infra.ports.error_table import Reaction, redis_reaction
from infra.ports.errors import RedisRefused, StopRequested
from infra.ports.redis import REDIS_ERRORS, RedisRetry
from thunder_ingest.events import FeedStatus

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Computation:
    """One computation in progress; it always ends with a result.

    Attributes:
        merged: the requests that it answers.
        query: the pipeline's input.
        run: the state within the pipeline; None before `gather`, and for a request that was refused or has failed.
        result: None until it has ended.
        is_answered: True if the request was answered before: its side effects, which change the viewer's state, have
            run.
        has_waited: True if Redis was away while the viewer's state was read.

    """

    merged: MergedRequest
    query: Query
    run: RequestRun | None = None
    result: Result | None = None
    is_answered: bool = False
    has_waited: bool = False

    def end(self, status: FeedStatus, reason: str) -> None:
        """End without items; `reason` becomes a degradation of the feed."""
        self.run = None
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
    """Runs the steps of one model's pipeline over batches.

    `gather` belongs to the intake thread, `rank` to the ranking thread, all other methods to the delivery thread.

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
        self._isolated(self._gather, _open(computations))

    def rank(self, computations: Sequence[Computation]) -> None:
        """Score and select."""

        def retry(each: list[Computation]) -> None:
            self._gather(each)
            self._rank(each)

        self._isolated(self._rank, _open(computations), retry)

    def compute_again(self, computations: Sequence[Computation]) -> None:
        """Gather and rank once more, from the present state of viewers and posts."""
        for each in computations:
            each.result = None
        self.gather(computations)
        self.rank(computations)

    def finish(self, computations: Sequence[Computation]) -> None:
        """Make the results, by the present labels, deletions and accounts, and by the time; may be called again."""
        self._isolated(self._finish, _with_run(computations))

    def run_side_effects(self, computations: Sequence[Computation]) -> None:
        """Write served posts, except for requests that were answered before; may be called again.

        Raises:
            redis.RedisError: Redis does not answer or refuses a command.

        """
        self._isolated(self._run_side_effects, [each for each in _with_run(computations) if not each.is_answered])

    def _gather(self, computations: list[Computation]) -> None:
        attempts = count()

        def attempt() -> list[RequestRun]:
            has_waited = next(attempts) > 0
            for each in computations:
                each.has_waited |= has_waited
                each.query = self._requery(each.query)
            return self.pipeline.gather([each.query for each in computations])

        for each, run in zip(computations, self._redis_retry.run(attempt), strict=True):
            each.run = run

    def _rank(self, computations: list[Computation]) -> None:
        self.pipeline.rank(_runs(computations))

    def _finish(self, computations: list[Computation]) -> None:
        for each, result in zip(computations, self.pipeline.finish(_runs(computations)), strict=True):
            each.result = result

    def _run_side_effects(self, computations: list[Computation]) -> None:
        self.pipeline.run_side_effects([each.result for each in computations if each.result is not None])

    def _isolated(self, step: _Step, computations: list[Computation], retry: _Step | None = None) -> None:
        try:
            if computations:
                step(computations)
        except Exception as error:  # a defect must neither end the worker nor fail the other requests
            if _is_fatal(error):
                raise
            log.error("a batch of %d failed; each request is tried alone", len(computations), exc_info=error)
            for each in computations:
                self._alone(retry or step, each)

    def _alone(self, step: _Step, computation: Computation) -> None:
        try:
            step([computation])
        except Exception as error:  # the next worker would fail, too
            if _is_fatal(error):
                raise
            log.error("request %s failed", computation.merged.request.request_id, exc_info=error)
            computation.end("failed", type(error).__name__)


def refused(merged: MergedRequest, query: Query, refusal: Refusal) -> Computation:
    """A computation that has ended without work."""
    computation = Computation(merged, query)
    computation.end(*refusal)
    return computation


def _is_fatal(error: Exception) -> bool:
    """True for an error that no request causes: the caller waits for the server, or the worker ends."""
    is_of_server = isinstance(error, REDIS_ERRORS) and redis_reaction(error) is not Reaction.SKIP
    return is_of_server or isinstance(error, StopRequested | RedisRefused)


def _open(computations: Sequence[Computation]) -> list[Computation]:
    return [each for each in computations if each.result is None]


def _with_run(computations: Sequence[Computation]) -> list[Computation]:
    return [each for each in computations if each.run is not None]


def _runs(computations: Sequence[Computation]) -> list[RequestRun]:
    return [each.run for each in computations if each.run is not None]
