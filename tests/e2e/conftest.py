"""One Kafka and one Redis for the end-to-end tests of a process, and one running stack.

FORYOU_E2E_CLUSTER=1 runs the tests on a Redis Cluster; those that stop, fill or delay the one Redis are skipped.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from feed_worker.client import Client
from infra.ports.kafka_admin import admin, create_topics
from infra.ports.redis import connect
from infra.ports.settings import Settings
from infra.stack.stack import Stack
from tests.e2e import containers
from tests.infra.redis_cluster import local_cluster
from tests.infra.waiting import last_value

CLUSTER = bool(os.environ.get("FORYOU_E2E_CLUSTER"))
LONG_S = 600
"""The limit of every wait. A step of one second takes minutes on a busy machine."""
POLL_S = 0.05
T = TypeVar("T")


def eventually(condition: Callable[[], T], timeout_s: float = LONG_S) -> T:
    """Poll until `condition` returns a true value, and return it; after the timeout return its last value."""
    return last_value(condition, timeout_s, POLL_S)


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[containers.Server]:
    """A test that stops the server must start it again."""
    with containers.kafka() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[containers.Server]:
    """A test that stops the server must start it again."""
    if CLUSTER:
        pytest.skip("needs the one Redis; FORYOU_E2E_CLUSTER runs a Redis Cluster")
    with containers.redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def redis_address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str | bool]]:
    """The fields of the settings that name the Redis, or the Redis Cluster of three primaries and their replicas."""
    if CLUSTER:
        with local_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
            yield cluster.address(0, 1)
    else:
        yield {"redis": f"redis://{request.getfixturevalue('redis_server').address}/0"}


@pytest.fixture(scope="module")
def settings(
    kafka_server: containers.Server, redis_address: dict[str, str | bool], request: pytest.FixtureRequest
) -> Settings:
    """Settings with the addresses of the servers. Each module gets empty topics, an empty Redis and its own groups."""
    found = patient_settings(
        redis_address, kafka=kafka_server.address, group_prefix=request.module.__name__.rpartition(".")[2]
    )
    empty_redis(found)
    delete_topics(found)
    create_topics(found)
    return found


@pytest.fixture
def own_settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """Consumer groups for one test, and an empty Redis. Its flows start at the beginning of the log."""
    empty_redis(settings)
    return settings.model_copy(update={"group_prefix": request.node.name})


def patient_settings(redis_address: dict[str, str | bool], **fields: Any) -> Settings:
    """Settings with which no request expires on a busy machine, and a dead member leaves its group in seconds."""
    found = Settings(session_timeout_ms=6_000, deadline_ms=LONG_S * 1_000, max_wait_ms=LONG_S * 1_000, **fields)
    return found.model_copy(update=redis_address)


def empty_redis(settings: Settings) -> None:
    client = connect(settings)
    client.flushall()
    client.close()


def delete_topics(settings: Settings) -> None:
    """Delete the topics of earlier modules, and wait until they are gone."""
    client = admin(settings)

    def topics() -> list[str]:
        return [name for name in client.list_topics(timeout=LONG_S).topics if not name.startswith("__")]

    if names := topics():
        for deleted in client.delete_topics(names, operation_timeout=LONG_S).values():
            deleted.result()
        assert eventually(lambda: not topics())


@pytest.fixture(scope="module")
def stack(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The flows and a worker on the real servers."""
    with Stack(settings, tmp_path_factory.mktemp("stack"), embedded=False) as running:
        running.wait_ready(LONG_S)
        yield running


@pytest.fixture
def client(stack: Stack, settings: Settings) -> Iterator[Client]:
    with Client(settings) as connected:
        yield connected
