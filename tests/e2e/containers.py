"""Kafka and Redis in containers, from the official images. Their tags are pinned only here."""

import contextlib
import gc
import os
import socket
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import docker
import docker.errors

# each fixture stops its own container, so the clean-up container of testcontainers is not needed
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
from testcontainers.core.container import DockerContainer

KAFKA_IMAGE = os.environ.get("KAFKA_IMAGE", "apache/kafka:4.1.0")
REDIS_IMAGE = os.environ.get("REDIS_IMAGE", "redis:7.0")
START_TIMEOUT_S = 300
BRIEF_JVM = "-XX:TieredStopAtLevel=1"
"""Kafka runs for minutes: the optimising compiler of Java would take more time than it saves."""


def engine_problem() -> str | None:
    """The reason why no container can run here, or None."""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        problem = _engine_problem()
        gc.collect()  # docker-py leaves a socket open if no engine listens
    return problem


def _engine_problem() -> str | None:
    try:
        with contextlib.closing(docker.from_env(timeout=600)) as engine:
            engine.ping()
            return next(filter(None, (_missing(engine, image) for image in (KAFKA_IMAGE, REDIS_IMAGE))), None)
    except (docker.errors.DockerException, OSError) as error:
        return f"no Docker engine answers ({str(error).splitlines()[0][:120]})"


def _missing(engine: Any, image: str) -> str | None:
    try:
        engine.images.get(image)
    except docker.errors.ImageNotFound:
        try:
            engine.images.pull(image)
        except docker.errors.APIError as error:
            return f"the image {image} is missing and cannot be pulled ({error.explanation})"
    return None


def free_port() -> int:
    """A free port. A container that a test restarts needs the same port again, so Docker must not choose it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Server:
    """A server in a container, on a fixed port of this machine."""

    container: DockerContainer
    port: int
    ready_line: str

    @property
    def address(self) -> str:
        """The host and port that clients use."""
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Stop the server; its data stays."""
        self._docker().stop(timeout=20)

    def kill(self) -> None:
        """Kill the server; the data that it has written stays."""
        self._docker().kill()

    def wait_ended(self) -> None:
        """Wait until the server ends by itself."""
        self._docker().wait(timeout=10 * START_TIMEOUT_S)

    def start(self) -> None:
        """Start the server again and wait until it is ready."""
        self.wait(self.start_only())

    def start_only(self) -> float:
        """Start the server again; return the time for `wait`. A majority of a quorum must start before one is ready."""
        since = time.time()
        self._docker().start()
        return since

    def wait(self, since: float = 0.0) -> None:
        """Wait for the ready line in the log since a time in seconds.

        Raises:
            TimeoutError: after `START_TIMEOUT_S`, with the end of the log.

        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            output = self._docker().logs(since=since) if since else self._docker().logs()
            if self.ready_line.encode() in output:
                return
            time.sleep(0.1)
        raise TimeoutError(f"{self.ready_line!r} not logged in {START_TIMEOUT_S} s: {output[-2_000:].decode()}")

    def _docker(self) -> Any:  # docker-py has no types
        return self.container.get_wrapped_container()


def on_loopback(container: DockerContainer, inside: str, port: int) -> DockerContainer:
    container.ports[inside] = cast(Any, ("127.0.0.1", port))  # with_bind_ports would listen on every address
    return container


class SmallDisk:
    """A disk in memory that outlives the server on it: a container of its own keeps it mounted."""

    def __init__(self, keeper: Any, name: str) -> None:
        self._keeper, self._name = keeper, name

    def mount(self, container: DockerContainer, path: str) -> DockerContainer:
        """Mount the disk in the container of a server."""
        return container.with_volume_mapping(self._name, path, "rw")

    def fill(self, left_kib: int) -> None:
        """Fill the disk except for some KiB."""
        self._run(
            f"truncate -s 0 {_FILLER}; free=$(df -k --output=avail /disk | tail -1); "
            f"head -c $(( (free - {left_kib}) * 1024 )) /dev/zero > {_FILLER} || true"
        )

    def free(self) -> None:
        """Free the space that `fill` took."""
        self._run(f"rm -f {_FILLER}")

    def left_kib(self) -> int:
        """The free space in KiB."""
        return int(self._run("df -k --output=avail /disk | tail -1"))

    def _run(self, script: str) -> str:
        code, output = self._keeper.exec_run(["sh", "-c", script])
        assert code == 0, output
        return str(output.decode())


_FILLER = "/disk/filler"


@contextlib.contextmanager
def small_disk(mib: int) -> Iterator[SmallDisk]:
    with contextlib.closing(docker.from_env(timeout=600)) as engine:
        volume = engine.volumes.create(
            driver="local", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": f"size={mib}m"}
        )
        disk = {volume.name: {"bind": "/disk", "mode": "rw"}}
        keeper = engine.containers.run(REDIS_IMAGE, ["sleep", "infinity"], detach=True, init=True, volumes=disk)
        try:
            yield SmallDisk(keeper, volume.name)
        finally:
            keeper.remove(force=True)
            volume.remove(force=True)


@contextlib.contextmanager
def kafka(disk: SmallDisk | None = None) -> Iterator[Server]:
    """A single-node broker in KRaft mode; with a disk, its log is there."""
    port = free_port()
    environment = {
        "NODE_ID": "1",
        "PROCESS_ROLES": "broker,controller",
        "LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "OFFSETS_TOPIC_NUM_PARTITIONS": "4",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "AUTO_CREATE_TOPICS_ENABLE": "false",
        "OPTS": BRIEF_JVM,
    }
    container = on_loopback(DockerContainer(KAFKA_IMAGE), "9092/tcp", port)
    if disk is not None:
        environment |= {"LOG_DIRS": "/disk/log", "HEAP_OPTS": "-Xms320m -Xmx320m"}
        container = disk.mount(container, "/disk")
    for name, value in environment.items():
        container = container.with_env(f"KAFKA_{name}", value)
    with container as running:
        server = Server(running, port, "Kafka Server started")
        server.wait()
        yield server


@contextlib.contextmanager
def redis_server() -> Iterator[Server]:
    """A Redis that writes every command to disk, as a store of user state must."""
    port = free_port()
    command = "redis-server --bind 0.0.0.0 --protected-mode no --appendonly yes --appendfsync always"
    container = on_loopback(DockerContainer(REDIS_IMAGE).with_command(command), "6379/tcp", port)
    with container as running:
        server = Server(running, port, "Ready to accept connections")
        server.wait()
        yield server
