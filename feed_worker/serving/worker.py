"""The worker: three threads through which batches of requests pass.

intake: take, admit, gather candidates ▸ ranking: score and select ▸ delivery: write, announce, publish, commit.

A thread works on one batch while the others work on those before and after it. A batch forms when the ranking has room
for it, from what waits at that moment; nothing is ever delayed to fill it. The first error of any thread ends the
worker: whatever is not committed, the next one computes again.

A batch is made with one model from its beginning to its end: the pipeline, the vectors and the version come with it.
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
from feed_worker.serving.request_queue import MergedRequest, RequestQueue
from feed_worker.serving.stage_threads import StageThreads
from feed_worker.serving.worker_registry import WorkerRegistry
from infra.ports.clock import Clock
from infra.ports.kafka import Publisher
from infra.ports.redis import Client, Patience
from infra.ports.settings import Settings
from thunder_ingest.events import FeedRequest
from thunder_ingest.events.ids import id64, published_form
from thunder_ingest.posts.store import PostStore

log = logging.getLogger(__name__)

WAIT_S: Final = 0.2
BUSY_S: Final = 0.01
"""How long to wait for viewers that are busy before looking whether somebody else has come."""

IN_HAND: Final = 512
"""Requests taken from Kafka at most that wait here for their turn: so many are looked at for some to be merged."""

FINISH_S: Final = 20.0
"""How long what is under way is waited for when partitions go, or the worker is to end; then it is left to the next."""


class ServingState(NamedTuple):
    """What a worker serves from."""

    posts: PostStore
    rankers: Mapping[str, str]
    """The versions of the models that experiments rank with, by checkpoint."""
    redis: Client
    clock: Clock
    failure: Callable[[], BaseException | None]
    """Why the state is not kept up any more, should that happen."""


class Worker:
    """Serves feed requests until it is stopped; one of any number in the consumer group."""

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
        self._patience = Patience(settings, stopping)
        self._runner = self._next = self._runner_of(pipeline, model_version)
        self._admission = Admission(settings.max_wait_ms)
        self._metrics = WorkerMetrics(registry)
        self._presence = WorkerRegistry(state.redis, self._patience, model_version=model_version, clock=settings.clock)
        self._waiting = RequestQueue()
        self._dead_letters: list[DeadLetterRecord] = []
        self._delivery = Delivery(
            DocumentBuilder(state.posts, state.clock),
            FeedStore(state.redis, settings.feed_ttl_s),
            Publisher(settings),
            self._patience,
            self._done,
            self._metrics,
            stopping,
        )
        self._line = StageThreads(
            ("ranking", lambda batch: batch.runner.rank(batch.computations)),
            ("delivery", self._delivery),
        )
        self._ready = False

    @property
    def lag(self) -> dict[int, int]:
        """Requests not yet answered, by partition of this worker."""
        return self._intake.lag if self._ready else {}

    @property
    def waits_for(self) -> str | None:
        """What is missing until the worker answers requests."""
        return None if self._ready else "the group to assign partitions"

    @property
    def failure(self) -> BaseException | None:
        """What ends the worker, if something does."""
        return self._line.failure or self._state.failure()

    @property
    def runner(self) -> BatchRunner:
        """What the next batch is made with."""
        return self._runner

    @property
    def model_versions(self) -> set[str]:
        """Of the models that batches are being made with, and that the next one will be made with."""
        runner, following = self._runner, self._next  # first: what is formed with it is then under way already
        in_flight = [batch.runner for batch in self._line.in_flight]
        return {each.model_version for each in (runner, following, *in_flight)}

    def swap(self, pipeline: Pipeline, model_version: str) -> None:
        """Make batches with another model from the next one on; those under way are finished with theirs.

        To be called from any thread; does not wait. Figures go on counting where they are.
        """
        pipeline.stats, pipeline.stage_stats = self._next.pipeline.stats, self._next.pipeline.stage_stats
        self._next = self._runner_of(pipeline, model_version)

    def run(self) -> None:
        """Join the group, say that the worker is ready, and answer requests until `stopping`; then leave in order."""
        self._intake = Intake(self._settings, self._state.clock, self._on_assign, self._finish)
        try:
            with self._line:
                while not self._stopping.is_set():
                    self._step()
                self._finish()
                self._line.check()
        finally:
            self._intake.close()
            self._presence.withdraw()

    def _step(self) -> None:
        if failure := self.failure:
            raise failure
        self._presence.refresh()
        self._follow()
        self._take()
        if (self._waiting or self._dead_letters) and self._line.has_room(WAIT_S):
            in_flight = self._line.in_flight
            if batch := self._batch(set().union(*(batch.viewers for batch in in_flight))):
                batch.runner.gather(batch.computations)
                self._line.put(batch)
            else:
                self._line.wait_for_change(in_flight, BUSY_S)

    def _follow(self) -> None:
        """Go over to another model: here, where no batch is half formed."""
        if self._runner is not self._next:
            self._runner = self._next
            self._presence.change(model_version=self._runner.model_version)

    def _take(self) -> None:
        if room := IN_HAND - len(self._waiting):
            idle = not (self._waiting or self._dead_letters)
            taken, dead_letters, gone = self._intake.take(room, WAIT_S if idle else 0)
            self._waiting.forget(gone)
            self._dead_letters = [each for each in self._dead_letters if each.place.part not in gone] + dead_letters
            self._waiting.add(taken)

    def _batch(self, busy: set[str]) -> Batch | None:
        """The next batch, if there is anything but requests of viewers that are busy."""
        now_ms = time.time_ns() // 1_000_000
        chosen = self._waiting.take(self._settings.max_batch, busy, lambda asked: self._refusal(asked, now_ms))
        if not chosen and not self._dead_letters:
            return None
        waits = [now_ms - asked.arrived_ms for asked, _ in chosen]
        quality = self._admission.quality(max(waits, default=0))
        computations = [self._computation(*each, quality) for each in chosen]
        batch = Batch(self._runner, computations, self._dead_letters, time.monotonic())
        self._dead_letters = []
        self._metrics.formed(batch, now_ms, quality)
        return batch

    def _refusal(self, asked: MergedRequest, now_ms: int) -> Refusal | None:
        left_ms = self._deadline_at(asked.request) - self._state.clock.now_ms()
        return self._admission.refusal(now_ms - asked.arrived_ms, left_ms)

    def _computation(self, asked: MergedRequest, refusal: Refusal | None, quality: float) -> Computation:
        if refusal:
            return refused(asked, self._query(asked.request, 1.0, self._runner.model_version), refusal)
        return Computation(asked, self._query(asked.request, quality, self._runner.model_version))

    def _deadline_at(self, request: FeedRequest) -> int:
        return request.at + (request.deadline_ms or self._settings.deadline_ms)

    def _runner_of(self, pipeline: Pipeline, model_version: str) -> BatchRunner:
        def fresh(query: Query) -> Query:
            return self._query(query.request, query.quality, model_version)

        return BatchRunner(pipeline, model_version, self._patience, fresh)

    def _query(self, request: FeedRequest, quality: float, model_version: str) -> Query:
        user_id = id64(request.user_id)
        parameters, experiments = self._experiments.assign(user_id)
        return Query(
            request=request,
            user_id=user_id,
            user_form=published_form(request.user_id),
            now_ms=self._state.clock.now_ms(),
            deadline_at=self._deadline_at(request),
            size=request.size or self._settings.feed_size,
            parameters=parameters,
            experiments=experiments,
            model_version=self._state.rankers.get(parameters.checkpoint, model_version),
            quality=quality,
            degradations=["overloaded: fewer candidates"] if quality < 1.0 else [],
        )

    def _on_assign(self) -> None:
        self._ready = True
        self._presence.announce()
        log.info("ready: %d posts, model %s", len(self._state.posts), self._runner.model_version)

    def _finish(self) -> None:
        if not self._line.drain(FINISH_S) and not self._line.failure:
            log.warning("what is under way is left to the next worker: it took longer than %g s", FINISH_S)

    def _done(self, batch: Batch) -> None:
        self._intake.done(batch.places)
        self._admission.served(1000 * (time.monotonic() - batch.formed_at))
