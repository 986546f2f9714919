"""`python -m feed_worker`: one worker of the group, until SIGTERM or Ctrl-C."""

import logging
import signal
import threading

import redis

from feed_worker.parameters import PRESETS, Parameters
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
        serve(settings, parameters_of(settings), stopping)
    except (SettingsError, TopicMissing, redis.AuthenticationError) as error:
        raise SystemExit(str(error)) from None
    except (Stopped, DeliveryFailed) as error:
        log.warning("%s", error)


def serve(settings: Settings, parameters: Parameters, stopping: threading.Event) -> None:
    """Wire a worker together, wait until its copy of the posts has caught up and its model is compiled, and serve."""
    wait_for_topics(settings, ("feed-requests", "feeds-served", "dead-letters", *TOPICS), stopping)
    client = Patience(settings, stopping).run(lambda: connect(settings))
    model = model_of(settings)
    store = PostStore(StoreLimits(max_age_ms=settings.max_post_age_ms))
    store.warm_up()
    index = VectorIndex(model.config.embed_dim)
    index.warm_up(model.config.batch_buckets, parameters.retrieval_max)
    clock = clock_of(settings.clock)
    replica = Replica(settings, store, index, clock)
    spare_collector()
    replica.start()
    try:
        model.warm_up(parts=("rank", "retrieve"))
        while not (replica.caught_up.wait(0.1) or stopping.is_set()):
            pass
        pipeline = foryou_pipeline(store, index, model, UserStates(client))
        Worker(settings, pipeline, parameters, store, model, client, clock, stopping).run(replica)
    finally:
        replica.stop()


def model_of(settings: Settings) -> Phoenix:
    """The models of the settings; raises SettingsError."""
    try:
        return served(settings.checkpoint, settings.model, settings.model_seed)
    except ValueError as error:
        raise SettingsError(f"FORYOU_CHECKPOINT, FORYOU_MODEL: {error}") from None


def parameters_of(settings: Settings) -> Parameters:
    """The preset of the settings.

    Raises:
        SettingsError: naming those that exist.

    """
    if settings.parameters not in PRESETS:
        raise SettingsError(f"FORYOU_PARAMETERS: no preset {settings.parameters!r}; there are {', '.join(PRESETS)}")
    return PRESETS[settings.parameters]


if __name__ == "__main__":
    main()
