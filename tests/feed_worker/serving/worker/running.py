"""A worker in a thread, requests to it and their answers."""

import itertools
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec
import redis
from prometheus_client import CollectorRegistry

from feed_worker.experiments import Experiments
from feed_worker.framework.pipeline import Pipeline
from feed_worker.parameters import FORYOU
from feed_worker.pipeline import foryou_pipeline
from feed_worker.serving.worker import ServingState, Worker
from infra.ports.clock import WallClock
from infra.ports.kafka_admin import ends_of, lag
from infra.ports.producer import KafkaProducer, Record
from infra.ports.redis import connect
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from phoenix.index.retrieval_index import VectorIndex
from tests.feed_worker.builders import FixedModel
from tests.feed_worker.client.answering import record_in
from tests.infra import waiting
from thunder_ingest.events import (
    FeedRequest,
    FeedServed,
    encode,
    unpack_feed_served,
)
from thunder_ingest.events.ids import published_form
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.redis_form import UserStates

viewers = itertools.count(1_000)
eventually = partial(waiting.eventually, timeout_s=120.0)
"""A test machine may be slow."""


class Running:
    """A worker in a thread of this process."""

    def __init__(self, settings: Settings, store: PostStore, pipeline: Pipeline | None = None) -> None:
        self.stopping = threading.Event()
        self.registry = CollectorRegistry()
        self.failure: BaseException | None = None
        self._client = connect(settings)
        pipeline = pipeline or pipeline_on(store, UserStates(self._client))
        state = ServingState(store, {}, self._client, WallClock(), lambda: None)
        self.worker = Worker(
            settings, pipeline, FixedModel.version, Experiments(FORYOU), state, self.registry, self.stopping
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        self.stopping.set()
        self.wait()

    def wait(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._client.close()

    def figure(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def pipeline_on(store: PostStore, users: UserStates) -> Pipeline:
    return foryou_pipeline(store, VectorIndex(), FixedModel(), users)


@contextmanager
def running(settings: Settings, store: PostStore, pipeline: Pipeline | None = None) -> Iterator[Running]:
    started = Running(settings, store, pipeline)
    try:
        yield started
    finally:
        started.stop()


def ask(settings: Settings, *requests: FeedRequest | bytes) -> None:
    """Publish requests, or raw bytes."""
    publisher = KafkaProducer(settings)
    publisher.publish(
        Record("feed-requests", b"k", each)
        if isinstance(each, bytes)
        else Record("feed-requests", published_form(each.user_id).encode(), encode(each))
        for each in requests
    )
    publisher.flush()


def request(user: int | None = None, **fields: object) -> FeedRequest:
    made = {"request_id": uuid.uuid4().hex, "user_id": user or next(viewers), "at": WallClock().now_ms()} | fields
    return msgspec.convert(made, FeedRequest)


def answers(settings: Settings, requests: Sequence[FeedRequest]) -> list[FeedServed]:
    """The ledger's record of each request, after all have one."""
    with redis.Redis.from_url(settings.redis) as client:

        def known() -> list[FeedServed]:
            records = [record_in(client, published_form(each.user_id), each.request_id) for each in requests]
            return [record for record in records if record]

        eventually(lambda: len(known()) == len(requests))
        return known()


def published(settings: Settings, requests: Sequence[FeedRequest]) -> list[list[FeedServed]]:
    """The records of each request in `feeds-served`."""
    found: dict[str, list[FeedServed]] = {each.request_id: [] for each in requests}
    for batch in scan(settings, ["feeds-served"]):
        for message in batch:
            record = unpack_feed_served(message.value() or b"")
            if record.request_id in found:
                found[record.request_id].append(record)
    return list(found.values())


def uncommitted(settings: Settings) -> int:
    """The number of requests that the group has not committed."""
    return lag(settings, "feed-worker", ends_of(settings, ["feed-requests"]))


def await_commit(settings: Settings) -> None:
    """Wait until all requests so far are committed."""
    ends = ends_of(settings, ["feed-requests"])
    eventually(lambda: not lag(settings, "feed-worker", ends))
