"""`python -m feed_worker`: one worker of the group, until SIGTERM or Ctrl-C."""

import logging
import signal
import threading

import redis

from feed_worker.experiments import Experiments, experiments_of
from feed_worker.pipeline import foryou_pipeline
from feed_worker.replica import TOPICS, Replica, spare_collector
from feed_worker.worker import Worker
from infra import logs
from infra.clock import clock_of
from infra.kafka import DeliveryFailed, TopicMissing, wait_for_topics
from infra.redis import Patience, Stopped, connect
from infra.settings import Settings, SettingsError, load
from phoenix.index import VectorIndex
from phoenix.served import served
from phoenix.serving import Phoenix
from thunder_ingest.post_store import PostStore, StoreLimits
from thunder_ingest.redis_form import UserStates

log = logging.getLogger("feed_worker")


def main() -> None:
    """Run a worker; a mistake of the user's ends it with one line."""
    logs.configure()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        settings = load()
        serve(settings, experiments_of(settings), stopping)
    except (SettingsError, TopicMissing, redis.AuthenticationError) as error:
        raise SystemExit(str(error)) from None
    except (Stopped, DeliveryFailed) as error:
        log.warning("%s", error)


def serve(settings: Settings, experiments: Experiments, stopping: threading.Event) -> None:
    """Wire a worker together, wait until its copy of the posts has caught up and its model is compiled, and serve."""
    wait_for_topics(settings, ("feed-requests", "feeds-served", "dead-letters", *TOPICS), stopping)
    client = Patience(settings, stopping).run(lambda: connect(settings))
    model = model_of(settings)
    rankers = {checkpoint: ranker_of(checkpoint) for checkpoint in experiments.checkpoints}
    store = PostStore(StoreLimits(max_age_ms=settings.max_post_age_ms))
    store.warm_up()
    index = VectorIndex(model.config.embed_dim)
    for most in experiments.retrieval_maxima:
        index.warm_up(model.config.batch_buckets, most)
    clock = clock_of(settings.clock)
    replica = Replica(settings, store, index, clock)
    spare_collector()
    replica.start()
    try:
        model.warm_up(parts=("rank", "retrieve"))
        for ranker in rankers.values():
            ranker.warm_up(parts=("rank",))
        while not (replica.caught_up.wait(0.1) or stopping.is_set()):
            pass
        pipeline = foryou_pipeline(store, index, model, UserStates(client), rankers)
        Worker(settings, pipeline, experiments, store, model, client, clock, stopping).run(replica)
    finally:
        replica.stop()


def model_of(settings: Settings) -> Phoenix:
    """The models of the settings; raises SettingsError."""
    try:
        return served(settings.checkpoint, settings.model, settings.model_seed)
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
