"""The worker: three threads that batches of feed requests pass through.

intake: receive, admit, gather candidates ▸ ranking: score and select ▸ delivery: write, announce, publish, commit.

The threads work on different batches at once. A micro-batch forms from the requests that are queued when the ranking
thread has room; no request is delayed to fill it. The first error of any thread ends the worker, and the next worker
computes all requests that are not committed.

A batch is made with one model from its first step to its last: pipeline, vectors and version belong together.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry

from feed_worker.candidates.query import Query
from feed_worker.experiments import Experiments
from feed_worker.framework.pipeline import Pipeline
from feed_worker.monitoring.metrics import WorkerMetrics
from feed_worker.serving.admission import Admission, Refusal
from feed_worker.serving.batch import Batch, BatchRunner, Computation, refused
from feed_worker.serving.delivery import Delivery, DocumentBuilder
from feed_worker.serving.feed_store import FeedStore
from feed_worker.serving.intake import DeadLetterRecord, Intake
from feed_worker.serving.request_queue import MergedRequest, ReceivedRequest, RequestQueue
from feed_worker.serving.stage_threads import StageThreads
from feed_worker.serving.worker_registry import WorkerRegistry
from infra.ports.clock import Clock, now_ms
from infra.ports.outage import open_outage
from infra.ports.producer import check_stop
from infra.ports.record_writer import RecordWriter
from infra.ports.redis import Client, RedisRetry
from infra.ports.settings import Settings
from thunder_ingest.events import FeedRequest
from thunder_ingest.events.dead_letters import substitute
from thunder_ingest.events.ids import id64, published_form
from thunder_ingest.posts.store import PostStore

log = logging.getLogger(__name__)

WAIT_S: Final = 0.2
BUSY_S: Final = 0.01
"""The wait for busy viewers before the next poll for requests of other viewers."""

MAX_COMPUTATIONS: Final = 512
"""The maximum number of different requests in the queue: enough to find equal ones to merge."""

MAX_REQUESTS: Final = 4_096
"""The maximum number of requests in the queue, equal and refused ones included."""

MAX_BYTES: Final = 128 * 2**20
"""The size of the requests in the queue above which no further ones are received: `seen_ids` may be long."""

RECEIVED_TOGETHER: Final = 512

FINISH_S: Final = 20.0
"""The maximum wait for batches in flight at a revocation or at the end; the next worker computes the rest again."""

STALLED_S: Final = 120.0
"""Time without a step after which a worker counts as stuck; a step waits for a rebalance, or for a slow batch."""


class ServingState(NamedTuple):
    """The state that a worker serves from."""

    posts: PostStore
    rankers: Mapping[str, str]
    """The version of each ranker of an experiment, by checkpoint."""
    redis: Client
    clock: Clock
    failure: Callable[[], BaseException | None]
    """The error that ended the replica or the model swap; None while both run."""
    positions: Callable[[], Mapping[str, int]] = dict
    """`Replica.positions`."""


class Worker:
    """Serves feed requests until it is stopped; one of any number in the consumer group.

    `run` belongs to the thread that becomes the intake thread. `swap` and the properties are for any thread.

    Args:
        settings: of the process.
        pipeline: of the model that serves first.
        model_version: of that model.
        experiments: assign parameters to viewers.
        state: posts, Redis and clock.
        registry: takes the metrics.
        stopping: ends `run` once it is set.

    """

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        model_version: str,
        experiments: Experiments,
        state: ServingState,
        registry: CollectorRegistry,
        stopping: threading.Event,
    ) -> None:
        self._settings, self._experiments, self._state, self._stopping = settings, experiments, state, stopping
        self._redis_retry = RedisRetry(settings, stopping, state.redis)
        self._runner = self._next = self._runner_of(pipeline, model_version)
        self._admission = Admission(settings.max_wait_ms)
        self._metrics = WorkerMetrics(registry)
        self._registry = WorkerRegistry(
            state.redis, self._redis_retry, model_version=model_version, clock=settings.clock
        )
        self._queue = RequestQueue()
        self._dead_letters: list[DeadLetterRecord] = []
        self._delivery = Delivery(
            DocumentBuilder(state.posts, state.clock),
            FeedStore(state.redis, settings.feed_ttl_s),
            RecordWriter(settings, check_stop(stopping), substitute),
            self._redis_retry,
            self._done,
            self._metrics,
        )
        self._threads = StageThreads(
            ("ranking", lambda batch: batch.runner.rank(batch.computations)),
            ("delivery", self._delivery),
        )
        self._ready, self._stepped_at_s = False, 0.0
        self._labels_seen, self._unknown = 0, list[str]()

    @property
    def lag(self) -> dict[int, int]:
        """Requests that are not yet answered, by partition of this worker."""
        return self._intake.lag if self._ready else {}

    @property
    def waits_for(self) -> str | None:
        """The event that the worker waits for before it answers requests; None once it does."""
        if not (self._ready and self._intake.is_member):
            return "the group to assign partitions"
        return open_outage()

    @property
    def problem(self) -> str | None:
        """The reason why the worker cannot continue: its failure, or a loop that stands still; else None."""
        if failure := self.failure:
            return f"{type(failure).__name__}: {failure}"
        still_s = time.monotonic() - self._stepped_at_s
        if self._ready and still_s > STALLED_S and open_outage() is None:
            return f"no step for {still_s:.0f} s, though all servers answer"
        return None

    @property
    def failure(self) -> BaseException | None:
        """The error that ends the worker; None while it runs."""
        return self._threads.failure or self._state.failure()

    @property
    def runner(self) -> BatchRunner:
        """The pipeline and model of the next batch."""
        return self._runner

    @property
    def model_versions(self) -> set[str]:
        """The models of the batches in flight and of the next batch."""
        runner, following = self._runner, self._next  # read first: a batch formed with it meanwhile is then in flight
        in_flight = [batch.runner for batch in self._threads.in_flight]
        return {each.model_version for each in (runner, following, *in_flight)}

    def swap(self, pipeline: Pipeline, model_version: str) -> None:
        """Make batches with another model from the next one on; batches in flight keep theirs.

        For any thread; does not wait. The statistics continue.
        """
        pipeline.stats, pipeline.stage_stats = self._next.pipeline.stats, self._next.pipeline.stage_stats
        self._next = self._runner_of(pipeline, model_version)

    def run(self) -> None:
        """Join the group, register as ready, answer requests until `stopping`, then drain and leave.

        Raises:
            Exception: the first error of any thread.

        """
        self._intake = Intake(self._settings, self._on_assign, self._finish)
        try:
            with self._threads:
                while not self._stopping.is_set():
                    self._step()
                self._finish()
                self._threads.check()
        finally:
            self._intake.close()
            self._registry.unregister()

    def _step(self) -> None:
        self._stepped_at_s = time.monotonic()
        if failure := self.failure:
            raise failure
        self._registry.heartbeat(self._state.positions(), self._unknown_labels())
        self._receive()
        self._follow_swap()  # after the wait for requests: those that came after the swap are of the new model
        if (self._queue or self._dead_letters) and self._threads.has_room(WAIT_S):
            in_flight = self._threads.in_flight
            if batch := self._form_batch(set().union(*(batch.viewers for batch in in_flight))):
                batch.runner.gather(batch.computations)
                self._threads.put(batch)
            else:
                self._threads.wait_for_change(in_flight, BUSY_S)

    def _unknown_labels(self) -> list[str]:
        """The labels of posts that no parameters name: they hide nothing."""
        known = self._state.posts.labels
        if len(known) != self._labels_seen:
            self._labels_seen = len(known)
            named = {label for each in self._experiments.parameters for label in each.all_unsafe_labels}
            self._unknown = sorted(set(known) - named)
        return self._unknown

    def _follow_swap(self) -> None:
        """Take over the model of a swap, between two batches."""
        if self._runner is not self._next:
            self._runner = self._next
            self._registry.update(model_version=self._runner.model_version)

    def _receive(self) -> None:
        if self._queue.computations >= MAX_COMPUTATIONS or self._queue.bytes >= MAX_BYTES:
            return
        if room := min(RECEIVED_TOGETHER, MAX_REQUESTS - len(self._queue)):
            idle = not (self._queue or self._dead_letters)
            received, dead_letters, revoked = self._intake.receive(room, WAIT_S if idle else 0)
            self._queue.forget(revoked)
            kept = [each for each in self._dead_letters if each.message.partition not in revoked]
            self._dead_letters = kept + dead_letters
            self._queue.add(received)
            for each in dead_letters:
                if each.asked is not None:
                    self._queue.refuse(each.asked, Refusal("failed", f"refused: {each.reason}"))

    def _form_batch(self, busy: set[str]) -> Batch | None:
        """The next batch; None if all queued requests are of busy viewers.

        A dead letter and the answer to its request are of one batch: the offset is committed after both.
        """
        formed_ms = now_ms()
        chosen = self._queue.take(self._settings.max_batch, busy, lambda each: self._refusal(each, formed_ms))
        if not chosen and not self._dead_letters:
            return None
        waits = [formed_ms - merged.newest.waits_since_ms for merged, refused in chosen if not refused]
        quality = self._admission.quality(max(waits, default=0))
        computations = [self._computation(*each, quality, formed_ms) for each in chosen]
        batch = Batch(self._runner, computations, self._dead_letters, time.monotonic())
        self._dead_letters = []
        self._metrics.batch_formed(batch, formed_ms, quality)
        return batch

    def _refusal(self, received: ReceivedRequest, now_ms: int) -> Refusal | None:
        return self._admission.refusal(now_ms - received.waits_since_ms, self._left_ms(received, now_ms))

    def _left_ms(self, received: ReceivedRequest, now_ms: int) -> int:
        """The time until the deadline: one of the app counts from the request's own time, the default from its arrival.

        So the default compares no clocks of different machines.
        """
        request = received.request
        if request.deadline_ms is None:
            return self._settings.deadline_ms - (now_ms - received.waits_since_ms)
        return request.at + request.deadline_ms - self._state.clock.now_ms()

    def _computation(self, merged: MergedRequest, refusal: Refusal | None, quality: float, now_ms: int) -> Computation:
        left_ms = max(self._left_ms(each, now_ms) for each in merged.received)
        deadline_at = self._state.clock.now_ms() + left_ms
        query = self._query(merged.request, deadline_at, 1.0 if refusal else quality, self._runner.model_version)
        newest = merged.newest
        query.arrived_ms, query.offset, query.history_ms = newest.arrived_ms, newest.message.offset, newest.history_ms
        return refused(merged, query, refusal) if refusal else Computation(merged, query)

    def _runner_of(self, pipeline: Pipeline, model_version: str) -> BatchRunner:
        def requery(query: Query) -> Query:
            new = self._query(query.request, query.deadline_at, query.quality, model_version)
            new.arrived_ms, new.offset, new.history_ms = query.arrived_ms, query.offset, query.history_ms
            return new

        return BatchRunner(pipeline, model_version, self._redis_retry, requery)

    def _query(self, request: FeedRequest, deadline_at: int, quality: float, model_version: str) -> Query:
        user_id = id64(request.user_id)
        parameters, experiments = self._experiments.assign(user_id)
        return Query(
            request=request,
            user_id=user_id,
            user_form=published_form(request.user_id),
            now_ms=self._state.clock.now_ms(),
            deadline_at=deadline_at,
            size=len(request.check_ids or ()) or request.size or self._settings.feed_size,
            parameters=parameters,
            experiments=experiments,
            model_version=self._state.rankers.get(parameters.checkpoint, model_version),
            quality=quality,
            degradations=["overloaded: fewer candidates"] if quality < 1.0 else [],
        )

    def _on_assign(self) -> None:
        self._ready = True
        self._registry.register()
        log.info("ready: %d posts, model %s", len(self._state.posts), self._runner.model_version)

    def _finish(self) -> None:
        if not self._threads.drain(FINISH_S) and not self._threads.failure:
            log.warning("batches in flight are left to the next worker: they took longer than %g s", FINISH_S)

    def _done(self, batch: Batch) -> None:
        self._intake.done(batch.messages)
        has_waited = any(each.has_waited for each in batch.computations)
        if not has_waited and batch.formed_at_s >= self._delivery.waited_until_s:
            self._admission.observe_service_time(1000 * (time.monotonic() - batch.formed_at_s))
