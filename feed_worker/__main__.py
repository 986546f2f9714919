"""`python -m feed_worker`: one worker of the group, until SIGTERM or Ctrl-C."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence

import redis
from prometheus_client import CollectorRegistry

from feed_worker.experiments import Experiments, experiments_of
from feed_worker.framework.pipeline import Pipeline
from feed_worker.monitoring.endpoints import Endpoints
from feed_worker.monitoring.metrics import StateCollector
from feed_worker.pipeline import foryou_pipeline
from feed_worker.replica.reader import TOPICS, Replica, tune_garbage_collector
from feed_worker.serving.model_swap import ModelSwap
from feed_worker.serving.warm_up import warm_up_pipeline
from feed_worker.serving.worker import ServingState, Worker
from infra.ports import logs
from infra.ports.clock import Clock, clock_of
from infra.ports.kafka import BrokerUnreachable, DeliveryFailed, TopicMissing, wait_for_topics
from infra.ports.redis import Client, Patience, Stopped, connect
from infra.ports.settings import Settings, SettingsError, load
from phoenix.index.retrieval_index import VectorIndex
from phoenix.serving.engine import Phoenix
from phoenix.serving.loading import served, served_first
from phoenix.serving.model_topic import await_announced
from thunder_ingest.events import ModelPointer
from thunder_ingest.posts.store import PostStore, StoreLimits
from thunder_ingest.users.redis_form import UserStates

log = logging.getLogger("feed_worker")


def main() -> None:
    """Run a worker; a mistake of the user's ends it with one line."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        settings = load()
        logs.configure(settings.log_format)
        Service(settings, experiments_of(settings), stopping).run()
    except (SettingsError, TopicMissing, redis.AuthenticationError) as error:
        raise SystemExit(str(error)) from None
    except (Stopped, DeliveryFailed) as error:
        log.warning("%s", error)


class Service:
    """A worker's process: what it waits for before it serves, and what it tells about itself meanwhile."""

    def __init__(self, settings: Settings, experiments: Experiments, stopping: threading.Event) -> None:
        self._settings, self._experiments, self._stopping = settings, experiments, stopping
        self._registry = CollectorRegistry()
        self._waits_for: Callable[[], str | None] = lambda: "the start"
        self._failure: Callable[[], BaseException | None] = lambda: None

    def run(self) -> None:
        """Wire a worker together, wait until its copy of the posts has caught up and its model is compiled, serve."""
        with Endpoints(self._settings, self._registry, self._ailment, lambda: self._waits_for()):
            self._waits("Kafka and its topics")
            topics = ("feed-requests", "feeds-served", "dead-letters", "models", *TOPICS)
            wait_for_topics(self._settings, topics, self._stopping)
            self._waits("Redis")
            client = Patience(self._settings, self._stopping).run(lambda: connect(self._settings))
            self._waits("the models to be made")
            self._serve(client)

    def _serve(self, client: Client) -> None:
        settings, clock = self._settings, clock_of(self._settings.clock)
        pointers = await_announced(settings, self._stopping)
        model = model_of(settings, pointers)
        rankers = {checkpoint: ranker_of(checkpoint) for checkpoint in self._experiments.checkpoints}
        store, users = PostStore(StoreLimits(max_age_ms=settings.max_post_age_ms)), UserStates(client)
        index = VectorIndex()
        self._warm_up(index, model)
        replica = self._replica(store, index, clock, model.version)
        tune_garbage_collector()
        replica.start()

        def prepare(model: Phoenix, before: Phoenix) -> Pipeline:
            """Nothing that the first feeds of another model would wait for is left to be done."""
            if model.config != before.config:
                self._warm_up(index, model)
                model.warm_up(self._goes_on, parts=("rank", "retrieve"))
            return self._rehearsed(model, store, index, users, rankers)

        try:
            model.warm_up(self._compiles, parts=("rank", "retrieve"))
            for ranker in rankers.values():
                ranker.warm_up(self._compiles, parts=("rank",))
            self._waits("feeds to be rehearsed")
            pipeline = self._rehearsed(model, store, index, users, rankers)
            self._waits_for = lambda: replica.waits_for
            while not (replica.caught_up.wait(0.1) or self._stopping.is_set()):
                pass
            versions = {checkpoint: ranker.version for checkpoint, ranker in rankers.items()}
            state = ServingState(store, versions, client, clock, lambda: replica.failure or swap.failure)
            worker = Worker(settings, pipeline, model.version, self._experiments, state, self._registry, self._stopping)
            known = pointers[0] if pointers else None
            swap = ModelSwap(settings, model, known, prepare, replica, store, index, worker, self._stopping)
            self._registry.register(
                StateCollector(
                    lambda: worker.runner, store.__len__, index.count, lambda: worker.lag, lambda: swap.announced
                )
            )
            self._waits_for, self._failure = lambda: worker.waits_for, lambda: worker.failure
            del model, pipeline  # once they are swapped out, nobody holds them
            swap.start()
            try:
                worker.run()
            finally:
                self._stopping.set()  # whatever it is that ends the worker
                swap.join()
        finally:
            replica.stop()

    def _warm_up(self, index: VectorIndex, model: Phoenix) -> None:
        for most in self._experiments.retrieval_maxima:
            index.warm_up(model.config.embed_dim, model.config.batch_buckets, most)

    def _rehearsed(
        self, model: Phoenix, store: PostStore, index: VectorIndex, users: UserStates, rankers: Mapping[str, Phoenix]
    ) -> Pipeline:
        """The pipeline that will serve, once feeds of an invented world have been made the same way."""
        patience = Patience(self._settings, self._stopping)
        patience.run(lambda: warm_up_pipeline(model, users, self._experiments.parameters, rankers))
        return foryou_pipeline(store, index, model, users, rankers)

    def _replica(self, store: PostStore, index: VectorIndex, clock: Clock, model_version: str) -> Replica:
        while True:  # the broker may have gone since it was waited for: making a model takes its time
            wait_for_topics(self._settings, TOPICS, self._stopping)
            with contextlib.suppress(BrokerUnreachable):
                return Replica(self._settings, store, index, clock, model_version)

    def _waits(self, what: str) -> None:
        self._waits_for = lambda: f"waiting for {what}"

    def _compiles(self, what: str) -> None:
        self._waits(f"the models to be compiled: {what}")

    def _goes_on(self, _what: str) -> None:
        if self._stopping.is_set():
            raise Stopped("stopped while another model was compiled")

    def _ailment(self) -> str | None:
        failure = self._failure()
        return f"{type(failure).__name__}: {failure}" if failure else None


def model_of(settings: Settings, pointers: Sequence[ModelPointer]) -> Phoenix:
    """The models that are announced, the newest first, else those of the settings; raises SettingsError."""
    try:
        return served_first(pointers, settings.checkpoint, settings.model, settings.model_seed).model
    except ValueError as error:
        raise SettingsError(f"FORYOU_CHECKPOINT, FORYOU_MODEL: {error}") from None


def ranker_of(checkpoint: str) -> Phoenix:
    """The model that a variant ranks with; raises SettingsError."""
    try:
        return served(checkpoint, "", 0)
    except ValueError as error:
        raise SettingsError(f"FORYOU_EXPERIMENTS: {error}") from None


if __name__ == "__main__":
    main()
