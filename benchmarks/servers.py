"""The servers of benchmarks: Kafka and Redis in containers or from the settings, and a worker without flows."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feed_worker.serving.worker_registry import ready_workers
from infra.ports.redis import connect
from infra.ports.settings import Settings, load
from infra.stack.processes import Children
from infra.stack.stack import POLL_S

READY_TIMEOUT_S = 300.0


@contextmanager
def servers(own: bool, **settings: str) -> Iterator[Settings]:
    """Kafka and Redis in containers (the images of the end-to-end tests), or those of the settings."""
    if own:
        yield load(**settings)
        return
    from tests.e2e import containers

    if problem := containers.engine_problem():
        raise SystemExit(f"{problem}: start one, or set FORYOU_KAFKA and FORYOU_REDIS and pass --own-servers")
    with containers.kafka() as kafka, containers.redis_server() as redis:
        yield Settings(kafka=kafka.address, redis=f"redis://{redis.address}/0", **settings)  # type: ignore[arg-type]


@contextmanager
def worker(settings: Settings, directory: Path) -> Iterator[float]:
    """Start a worker without flows; yields the seconds from its start to readiness."""
    with Children(directory / "logs") as children:
        began = time.monotonic()
        child = children.start("feed_worker", [sys.executable, "-m", "feed_worker"], settings.environment())
        client = connect(settings)
        while not any(ready["pid"] == child.pid for ready in ready_workers(client)):
            children.check()
            if time.monotonic() - began > READY_TIMEOUT_S:
                raise SystemExit(f"the worker was not ready in {READY_TIMEOUT_S:g} s: {child.tail()}")
            time.sleep(POLL_S)
        client.close()
        yield time.monotonic() - began
        children.check()
