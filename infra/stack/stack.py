"""The whole system as child processes: the flows, a worker and, if wanted, embedded servers."""

import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from feed_worker.serving.worker_registry import READY_KEY, ready_workers
from infra.ports.errors import ForYouError, RedisUnreachable
from infra.ports.kafka_admin import cluster_id, create_topics
from infra.ports.kafka_config import FLOW_GROUPS
from infra.ports.redis import SCRATCH_KEY, Client, connect
from infra.ports.settings import Settings
from infra.stack.compile_cache import compile_cache, drop_damaged, is_filled, mark_filled
from infra.stack.data_directory import DataDirectory
from infra.stack.embedded import EmbeddedKafka, EmbeddedRedis, EmbeddedServer
from infra.stack.fork_server import ForkServer, Program
from infra.stack.kept_kafka import KeptKafka
from infra.stack.processes import Child, ChildDied, Children
from infra.terminal import signals

WORKER = "feed_worker"
SYSTEM = platform.system()
READY_TIMEOUT_S = 900.0  # the first start compiles the models, which took 600 s on a busy machine
POLL_S = 0.1
GRACE_S = 2.0  # work that is cut short is done again from the log
# the embedded broker lets a group wait for half of this before its first assignment
EMBEDDED_SESSION_TIMEOUT_MS = 3_000
EMBEDDED_PARTITIONS = 1  # each costs the broker and every flow CPU while idle; one machine needs no more
# glibc else keeps memory in up to eight arenas a core
MEMORY = {"MALLOC_ARENA_MAX": "2"}
IMPORTS = {
    "flows.posts": ["bytewax.recovery", "infra.ports.endpoints", "flows.posts", "thunder_ingest.events.word_hashes"],
    "flows.engagements": ["flows.engagements"],
    "flows.embeddings": ["flows.embeddings"],
    "feed_worker": ["feed_worker.experiments", "feed_worker.serving.service", "phoenix.serving.text_cache"],
}
"""The slow imports of each program; JAX comes late, since two flows do not need it."""


class NotReady(ForYouError, TimeoutError):
    """The worker runs, but did not become ready in time."""


class Stack:
    """Servers (if embedded) ▸ topics ▸ flows and a worker; a context manager that stops them in reverse order.

    Args:
        settings: of the system; the addresses of embedded servers replace its own.
        directory: logs, recovery stores and, with `is_kept`, the data of the embedded servers.
        embedded: run the embedded servers, on the given ports or on free ones.
        is_kept: the embedded servers keep their data in `directory`, and continue from it.
        print_line: receives a line for each step.

    Raises:
        DataDirectoryInUse, OtherCluster, EmbeddedError, BrokerUnreachable, TopicError, RedisUnreachable: on entering.
            Nothing is left running.

    """

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        *,
        embedded: bool = True,
        is_kept: bool = False,
        kafka_port: int | None = None,
        redis_port: int | None = None,
        print_line: Callable[[str], None] = lambda _: None,
    ) -> None:
        if embedded and "partitions" not in settings.model_fields_set:
            settings = settings.model_copy(update={"partitions": EMBEDDED_PARTITIONS})
        self.settings, self.directory = settings, directory
        self._data = DataDirectory(directory, print_line)
        self.is_embedded, self._is_kept = embedded, is_kept
        self._kafka_port, self._redis_port = kafka_port, redis_port
        self._servers: list[EmbeddedServer] = []
        self._children = Children(directory / "logs")
        self._print_line = print_line
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
        self._stack.enter_context(self._data)
        drop_damaged()
        programs = [*map(self._flow, FLOW_GROUPS), Program(WORKER, WORKER, [], IMPORTS.get(WORKER, []))]
        # JAX and the C library read it when they are loaded
        early = {"PYTHONUNBUFFERED": "1"} | MEMORY | compile_cache()
        forks = None
        if SYSTEM == "Linux":
            self._stack.callback(self._children.stop, GRACE_S)
            forks = ForkServer(self._children, programs, early)  # it imports while the servers start
            self._stack.callback(forks.close)
        kept = self._start_servers() if self.is_embedded else None
        if kept is None:
            connect(self.settings).close()
            created = create_topics(self.settings)
            self._print_line(f"{len(created)} topics created")
            self._data.bind(cluster_id(self.settings))
        self._stack.callback(self._children.stop, GRACE_S)  # before the servers
        if forks is not None:
            forks.start(self.settings.environment())
        else:
            for each in programs:
                command = [sys.executable, "-m", each.module, *each.arguments]
                self._children.start(each.name, command, early | self.settings.environment())
        if not is_filled():
            self._print_line("the first start compiles models and kernels, once per installation: a minute or two")
        if kept is not None:  # the imports go on meanwhile
            restored = kept.wait_restored(self._check_servers)
            self._print_line(
                f"{restored.records:,} Kafka records ({restored.size_bytes / 1e6:.1f} MB) restored in "
                f"{restored.seconds:.1f} s"
            )
        if forks is not None:
            forks.wait(self._check_servers)
        self._worker = self._children[WORKER]
        self._print_line(f"a worker and {len(FLOW_GROUPS)} flows started")

    def _start_servers(self) -> KeptKafka | None:
        """Start the embedded servers, Kafka first, and put their addresses into the settings."""
        kafka_directory = self.directory / "kafka"
        kept = None
        if self._is_kept:
            kept = KeptKafka(self.settings, kafka_directory, self._kafka_port, lock=self._data.lock)
            self._check_recovery(kept)
        kafka = kept or EmbeddedKafka(kafka_directory, self._kafka_port)
        redis = EmbeddedRedis(self.directory / "redis", self._redis_port, is_kept=self._is_kept)
        for server in (kafka, redis):
            signals.check()
            self._stack.callback(server.stop)
            self._servers.append(server.start())
            self._print_line(f"{server.title} at {server.address}")
        addresses = {"kafka": kafka.address, "redis": redis.address}
        self.settings = self.settings.model_copy(
            update=addresses | {"session_timeout_ms": EMBEDDED_SESSION_TIMEOUT_MS, "kafka_options": {}}
        )
        client = self._connect()
        if kept is None:
            client.set(SCRATCH_KEY, 1)  # for `foryou doctor`
        else:  # clients would wait for the workers that were killed
            client.delete(READY_KEY)
        client.close()
        return kept

    def _connect(self) -> Client:
        while True:
            try:
                return connect(self.settings)
            except RedisUnreachable:  # it loads its data
                self.check()
                time.sleep(POLL_S)

    def _check_recovery(self, kafka: KeptKafka) -> None:
        """Discard recovery stores that may be ahead of the log: the flows would skip or double records."""
        self._data.bind(kafka.cluster_id)
        if not kafka.is_whole:
            self._print_line("the last stop was not clean: the flows derive their state from the log again")
            self._data.discard_recovery()
            self._data.bind(kafka.cluster_id)

    def _flow(self, name: str) -> Program:
        package, flow = name.split(".")
        return Program(name, package, [flow, "--recovery", str(self._data.recovery_of(name))], IMPORTS[name])

    def pids(self) -> dict[str, int]:
        """The process ids of the worker and the flows by name."""
        return {child.name: child.pid for child in self._children}

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> dict[str, Any]:
        """Wait until the worker answers requests.

        Returns:
            the worker's entry in the registry of ready workers: `ready_at`, `pid`, `model_version`, `clock`.

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
                    mark_filled()
                    return ready
            time.sleep(POLL_S)
        raise NotReady(f"the worker was not ready after {timeout_s:g} s; the end of its log:\n{self._worker.tail()}")

    def check(self) -> None:
        """Raise `ChildDied` if a process of the stack has ended, or again the exception of a signal."""
        self._check_servers()
        self._children.check()

    def _check_servers(self) -> None:
        signals.check()
        for server in self._servers:
            server.check()

    def watch(self) -> None:
        """Wait without limit; raises `ChildDied` as soon as a process has ended."""
        while True:
            self.check()
            time.sleep(0.5)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory for the time of a run; it is kept, for its logs, if a process of the run failed."""
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
