"""The whole system as child processes: the flows, a worker, and, where asked for, embedded servers under them."""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bytewax.recovery import init_db_dir

from feed_worker.serving.worker_registry import ready_workers
from infra.ports.errors import ForYouError
from infra.ports.kafka import FLOW_GROUPS
from infra.ports.kafka_admin import create_topics
from infra.ports.redis import connect
from infra.ports.settings import Settings
from infra.stack.embedded import EmbeddedKafka, EmbeddedRedis
from infra.stack.processes import Child, ChildDied, Children
from infra.terminal import signals

WORKER = "feed_worker"
READY_TIMEOUT_S = 180.0
POLL_S = 0.1
GRACE_S = 2.0  # whatever is cut short here is done again from the log
# the embedded broker lets a group wait for half of this before its first assignment
EMBEDDED_SESSION_TIMEOUT_MS = 3_000


class NotReady(ForYouError, TimeoutError):
    """The worker runs, but did not say in time that it is ready."""


class Stack:
    """Servers (if embedded) ▸ topics ▸ flows and a worker; a context manager that stops them in the other order.

    Args:
        settings: of the system; with embedded servers their addresses are put in the place of its own.
        directory: logs, and the flows' recovery stores. One that is used again must be used with the same Kafka.
        embedded: whether to run the embedded servers, on the ports given or on free ones.
        say: told what is being done, for who waits.

    Raises:
        EmbeddedError, BrokerUnreachable, TopicError, RedisUnreachable: on entering, with nothing left running.

    """

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        *,
        embedded: bool = True,
        kafka_port: int | None = None,
        redis_port: int | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.settings, self.directory = settings, directory
        self._servers = (
            [EmbeddedKafka(directory / "kafka", kafka_port), EmbeddedRedis(directory / "redis", redis_port)]
            if embedded
            else []
        )
        self._children = Children(directory / "logs")
        self._say = say
        self._worker: Child | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def stop(self) -> None:
        """Stop everything; leaving the context does the same."""
        self._stack.close()

    def _start(self) -> None:
        for server in self._servers:
            signals.check()
            self._stack.callback(server.stop)
            server.start()
            self._say(f"{server.title} at {server.address}")
        if self._servers:
            kafka, redis = self._servers
            addresses = {"kafka": kafka.address, "redis": redis.address}
            self.settings = self.settings.model_copy(
                update=addresses | {"session_timeout_ms": EMBEDDED_SESSION_TIMEOUT_MS, "kafka_options": {}}
            )
        connect(self.settings).close()
        created = create_topics(self.settings)
        self._say(f"{len(created)} topics created")
        self._stack.callback(self._children.stop, GRACE_S)
        for flow in FLOW_GROUPS:
            self._start_flow(flow)
        self._worker = self._children.start(WORKER, [sys.executable, "-m", WORKER], self._environment())
        self._say(f"{len(FLOW_GROUPS)} flows and a worker started")

    def _start_flow(self, flow: str) -> None:
        recovery = self.directory / "recovery" / flow
        if not recovery.exists():
            recovery.mkdir(parents=True)
            init_db_dir(recovery, 1)
        # an epoch a second; no older snapshots are kept, as nothing is backed up
        command = [sys.executable, "-m", "bytewax.run", flow, "-r", str(recovery), "-s", "1", "-b", "0"]
        self._children.start(flow, command, self._environment())

    def _environment(self) -> dict[str, str]:
        return {"PYTHONUNBUFFERED": "1"} | self.settings.environment()

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> dict[str, Any]:
        """Wait until the worker answers requests.

        Returns:
            what it says of itself: `ready_at`, `pid`, `model_version`.

        Raises:
            ChildDied: a process has ended meanwhile.
            NotReady: after `timeout_s`.

        """
        assert self._worker is not None, "the stack has not been entered"
        client = connect(self.settings)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check()
            for ready in ready_workers(client):
                if ready["pid"] == self._worker.pid:
                    client.close()
                    return ready
            time.sleep(POLL_S)
        raise NotReady(f"the worker was not ready after {timeout_s:g} s; the end of its log:\n{self._worker.tail()}")

    def check(self) -> None:
        """Raise `ChildDied` if a process of the stack has ended, and what a signal has raised before."""
        signals.check()
        for server in self._servers:
            server.check()
        self._children.check()

    def watch(self) -> None:
        """Wait for ever; raises `ChildDied` as soon as a process has ended."""
        while True:
            self.check()
            time.sleep(0.5)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory for the time of a run; it stays, for its logs, where a process of the run failed."""
    with signals.unwinding():
        path = Path(tempfile.mkdtemp(prefix="foryou-"))
        keep = False
        try:
            yield path
        except (ChildDied, NotReady):
            keep = True
            raise
        finally:
            if not keep:
                shutil.rmtree(path, ignore_errors=True)
