"""An embedded broker and Redis; a consumer group, a store and a Redis without users for each test."""

import uuid
from collections.abc import Iterator

import pytest
import redis
from confluent_kafka import Consumer, TopicPartition

from infra.ports.clock import WallClock
from infra.ports.kafka_admin import create_topics, ends_of
from infra.ports.kafka_config import consumer_config, group
from infra.ports.settings import Settings, load
from infra.stack.embedded import EmbeddedKafka, EmbeddedRedis
from tests.feed_worker.builders import post, store_of
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.register import declare_whole


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    PostStore().warm_up()  # a compilation may exceed the budget of a component
    with (
        EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as kafka,
        EmbeddedRedis(tmp_path_factory.mktemp("redis")) as valkey,
    ):
        # the embedded broker delays the first assignment of a group by half of its session timeout
        yield load(
            kafka=kafka.address, redis=valkey.address, partitions=2, session_timeout_ms=2_000, max_wait_ms=600_000
        )


@pytest.fixture
def settings(servers: Settings, request: pytest.FixtureRequest) -> Settings:
    """A new consumer group, and a Redis without users."""
    with redis.Redis.from_url(servers.redis) as client:
        client.flushall()
        declare_whole(client)
    create_topics(servers)
    own = servers.model_copy(update={"group_prefix": uuid.uuid4().hex})
    skip_what_is_there(own)
    return own


def skip_what_is_there(settings: Settings) -> None:
    """Start the consumer group after the requests of other tests."""
    ends = ends_of(settings, ["feed-requests"])
    if offsets := [TopicPartition(*part, end) for part, end in ends.items() if end]:
        consumer = Consumer(consumer_config(settings, group(settings, "feed-worker")))
        consumer.commit(offsets=offsets, asynchronous=False)
        consumer.close()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No overload: requests published before the worker starts wait for the group to form."""
    monkeypatch.setattr("feed_worker.serving.admission.QUEUED_MS", 600_000)


@pytest.fixture
def store() -> PostStore:
    now_ms = WallClock().now_ms()
    return store_of(*(post(number, number + 50, created_at=now_ms - 60_000) for number in range(1, 41)))


@pytest.fixture
def client(settings: Settings) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.redis) as connected:
        yield connected
