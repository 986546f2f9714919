"""One Kafka, one Redis and one running stack for the end-to-end tests; a clear word where there is no engine."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from feed_worker.client import Client
from infra.ports.kafka_admin import create_topics
from infra.ports.settings import Settings
from infra.stack.stack import Stack
from tests.e2e import containers

HERE = Path(__file__).parent
T = TypeVar("T")


_skipped_for = pytest.StashKey[str]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Everything in this folder needs real servers: skipped where there is no engine, an error where it is required."""
    own = [item for item in items if item.path.is_relative_to(HERE)]
    problem = containers.engine_problem() if own else None
    if problem and os.environ.get("FORYOU_E2E") == "required":
        raise pytest.UsageError(f"FORYOU_E2E=required, but {problem}")
    if problem:
        config.stash[_skipped_for] = f"{len(own)} end-to-end tests were skipped: {problem}"
    for item in own:
        item.add_marker(pytest.mark.e2e)
        if problem:
            item.add_marker(pytest.mark.skip(reason=problem))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say in one line why the end-to-end tests did not run."""
    if reason := config.stash.get(_skipped_for, None):
        terminalreporter.write_line(reason, yellow=True)


def eventually(what: Callable[[], T], timeout_s: float = 180.0) -> T:
    """The first true answer of `what`; the last one, if none comes in time, for the assertion to show."""
    deadline = time.monotonic() + timeout_s
    while not (answer := what()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


def on_servers(kafka: containers.Server, redis: containers.Server) -> Settings:
    """Settings for servers, with the topics created; patient, since a test machine may be slow."""
    found = Settings(
        kafka=kafka.address,
        redis=f"redis://{redis.address}/0",
        session_timeout_ms=6_000,
        deadline_ms=600_000,
        max_wait_ms=600_000,
    )
    create_topics(found)
    return found


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[containers.Server]:
    with containers.kafka() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[containers.Server]:
    with containers.redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def settings(kafka_server: containers.Server, redis_server: containers.Server) -> Settings:
    """The servers' addresses, with the topics created."""
    return on_servers(kafka_server, redis_server)


@pytest.fixture(scope="session")
def stack(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The flows and a worker on the real servers."""
    with Stack(settings, tmp_path_factory.mktemp("stack"), embedded=False) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def client(stack: Stack, settings: Settings) -> Iterator[Client]:
    with Client(settings) as connected:
        yield connected
