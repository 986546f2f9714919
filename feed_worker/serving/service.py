"""The wiring of one worker process: clients, models, replica, warm-up, worker, model swap and endpoints."""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry

from feed_worker.experiments import Experiments
from feed_worker.framework.pipeline import Pipeline
from feed_worker.monitoring.metrics import StateCollector
from feed_worker.pipeline import foryou_pipeline
from feed_worker.replica.reader import TOPICS, Replica, tune_garbage_collector
from feed_worker.serving.feed_store import FeedStore
from feed_worker.serving.model_swap import ModelSwap
from feed_worker.serving.warm_up import warm_up_pipeline
from feed_worker.serving.worker import ServingState, Worker
from infra.ports.clock import Clock, clock_of
from infra.ports.consumer import wait_for_topics
from infra.ports.endpoints import Endpoints
from infra.ports.errors import BrokerUnreachable, StopRequested
from infra.ports.freed_memory import return_freed_memory
from infra.ports.redis import Client, RedisRetry
from infra.ports.settings import Settings, SettingsError
from phoenix.index.retrieval_index import VectorIndex
from phoenix.serving.engine import Phoenix
from phoenix.serving.loading import load_first, load_models
from phoenix.serving.model_topic import wait_for_model_records
from thunder_ingest.events import ModelPointer
from thunder_ingest.posts.store import PostStore, StoreLimits
from thunder_ingest.users.redis_form import UserStates


class Service:
    """A worker process from its start to its end. `run` belongs to the main thread.

    Args:
        settings: of the process.
        experiments: the parameters and rankers that feeds are made with.
        stopping: ends `run` once it is set; may be set from a signal handler or any thread.

    """

    def __init__(self, settings: Settings, experiments: Experiments, stopping: threading.Event) -> None:
        self._settings, self._experiments, self._stopping = settings, experiments, stopping
        self._registry = CollectorRegistry()
        self._waits_for: Callable[[], str | None] = lambda: "the start"
        self._health: Callable[[], str | None] = lambda: None

    def run(self) -> None:
        """Wait for the servers, load and compile the models, catch up with the topics, then serve until `stopping`.

        Raises:
            SettingsError: a setting cannot be used.
            TopicMissing: a topic does not exist.
            StopRequested: `stopping` was set while Redis or Kafka was away.
            DeliveryFailed, BrokerRefused: Kafka refuses the process.
            RedisRefused: Redis refuses for good, for example because of a wrong password.

        """
        with Endpoints(self._settings, self._registry, lambda: self._health(), lambda: self._waits_for()):
            self._waits("Kafka and its topics")
            topics = ("feed-requests", "feeds-served", "dead-letters", "models", *TOPICS)
            wait_for_topics(self._settings, topics, self._stopping)
            self._waits("Redis")
            client = RedisRetry(self._settings, self._stopping).connect()
            self._waits("the models to be loaded")
            self._serve(client)

    def _serve(self, client: Client) -> None:
        settings, clock = self._settings, clock_of(self._settings.clock)
        pointers = wait_for_model_records(settings, self._stopping)
        model = load_model(settings, pointers)
        rankers = {checkpoint: load_ranker(checkpoint) for checkpoint in self._experiments.checkpoints}
        store, users = PostStore(StoreLimits(max_age_ms=settings.max_post_age_ms)), UserStates(client)
        index, pages = VectorIndex(), FeedStore(client, settings.feed_ttl_s)
        self._warm_up_index(index, model)
        replica = self._replica(store, index, clock, model.version)
        tune_garbage_collector()
        replica.start()

        def prepare(model: Phoenix, before: Phoenix) -> Pipeline:
            """Compile and warm up the next model, so that its first feeds wait for nothing."""
            if model.config != before.config:
                self._warm_up_index(index, model)
                model.warm_up(self._raise_if_stopping, parts=("rank", "retrieve"))
            return self._warm_pipeline(model, store, index, users, rankers, pages)

        try:
            model.warm_up(self._waits_for_compilation, parts=("rank", "retrieve"))
            for ranker in rankers.values():
                ranker.warm_up(self._waits_for_compilation, parts=("rank",))
            self._waits("the pipeline to warm up")
            pipeline = self._warm_pipeline(model, store, index, users, rankers, pages)
            self._waits_for = lambda: replica.waits_for
            while not (replica.caught_up.wait(0.1) or self._stopping.is_set()):
                pass
            versions = {checkpoint: ranker.version for checkpoint, ranker in rankers.items()}
            state = ServingState(
                store, versions, client, clock, lambda: replica.failure or swap.failure, lambda: replica.positions
            )
            worker = Worker(settings, pipeline, model.version, self._experiments, state, self._registry, self._stopping)
            known = pointers[0] if pointers else None
            swap = ModelSwap(settings, model, known, prepare, replica, store, index, worker, self._stopping)
            self._registry.register(
                StateCollector(
                    lambda: worker.runner, store.__len__, index.count, lambda: worker.lag, lambda: swap.status
                )
            )
            self._waits_for, self._health = lambda: worker.waits_for, lambda: worker.problem
            del model, pipeline  # otherwise this frame keeps them in memory after a swap
            return_freed_memory()
            swap.start()
            try:
                worker.run()
            finally:
                self._stopping.set()  # the swap thread ends with the worker, for any reason
                swap.join()
        finally:
            replica.stop()

    def _warm_up_index(self, index: VectorIndex, model: Phoenix) -> None:
        for count in self._experiments.retrieval_maxima:
            index.warm_up(model.config.embed_dim, model.config.batch_buckets, count)

    def _warm_pipeline(
        self,
        model: Phoenix,
        store: PostStore,
        index: VectorIndex,
        users: UserStates,
        rankers: Mapping[str, Phoenix],
        pages: FeedStore,
    ) -> Pipeline:
        """The pipeline that will serve, after feeds of a synthetic world went through one like it."""
        redis_retry = RedisRetry(self._settings, self._stopping)
        redis_retry.run(lambda: warm_up_pipeline(model, users, self._experiments.parameters, rankers))
        return foryou_pipeline(store, index, model, users, rankers, pages=pages)

    def _replica(self, store: PostStore, index: VectorIndex, clock: Clock, model_version: str) -> Replica:
        while True:  # the broker may have gone away while the models were loaded
            wait_for_topics(self._settings, TOPICS, self._stopping)
            with contextlib.suppress(BrokerUnreachable):
                return Replica(self._settings, store, index, clock, model_version)

    def _waits(self, what: str) -> None:
        self._waits_for = lambda: f"waiting for {what}"

    def _waits_for_compilation(self, what: str) -> None:
        self._waits(f"the models to be compiled: {what}")

    def _raise_if_stopping(self, _what: str) -> None:
        if self._stopping.is_set():
            raise StopRequested("stopped while another model was compiled")


def load_model(settings: Settings, pointers: Sequence[ModelPointer]) -> Phoenix:
    """The newest announced model that can be used, else the model of the settings.

    Args:
        settings: name a checkpoint, or a configuration and a seed.
        pointers: the announced models, newest first.

    Raises:
        SettingsError: the checkpoint or the configuration of the settings cannot be used.

    """
    try:
        return load_first(pointers, settings.checkpoint, settings.model, settings.model_seed).model
    except ValueError as error:
        raise SettingsError(f"FORYOU_CHECKPOINT, FORYOU_MODEL: {error}") from None


def load_ranker(checkpoint: str) -> Phoenix:
    """The model of a directory of checkpoints, for a variant that ranks with it; raises SettingsError."""
    try:
        return load_models(checkpoint, "", 0)
    except ValueError as error:
        raise SettingsError(f"FORYOU_EXPERIMENTS: {error}") from None
