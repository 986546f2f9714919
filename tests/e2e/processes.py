"""Processes of the product that a test kills, stops and starts again."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bytewax.recovery import init_db_dir

from infra.ports.errors import BrokerUnreachable
from infra.ports.kafka_admin import ends_of, lag
from infra.ports.kafka_config import FLOW_GROUPS
from infra.ports.settings import Settings
from infra.stack.processes import CHILD
from tests.e2e.containers import free_port

INPUT_TOPICS = FLOW_GROUPS | {"feed-worker": ("feed-requests",)}
"""The input topics of each consumer group."""
RECOVERY_PARTITIONS = 2
"""Partitions of each recovery store. Bytewax fixes them at its creation, for any number of processes."""


class Process:
    """A process of the product. Its output is appended to a file over all starts."""

    def __init__(self, settings: Settings, log: Path, *arguments: str) -> None:
        self._settings, self._log, self._arguments = settings, log, arguments
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                # the script ends the process if this process is killed
                [sys.executable, "-I", "-S", str(CHILD), str(os.getpid()), sys.executable, "-m", *self._arguments],
                env=os.environ | self._settings.environment() | {"PYTHONFAULTHANDLER": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        self._process.terminate()

    def freeze(self) -> None:
        """Suspend the process. It cannot notice this."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, timeout_s: float = 600.0) -> int:
        """Wait for the exit code.

        Raises:
            AssertionError: after the timeout, with the log and the stacks of all threads.

        """
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.abort()
            raise AssertionError(self.output()) from None

    def abort(self) -> None:
        """Abort the process. It logs the stacks of all threads."""
        self._process.send_signal(signal.SIGABRT)
        self._process.wait()

    def output(self) -> str:
        return self._log.read_text()


@contextmanager
def running(settings: Settings, directory: Path, *names: str, processes: int = 1) -> Iterator[dict[str, Process]]:
    """Running flows and workers by name. They are killed at the end.

    A flow resumes from its recovery store in `directory`. With several processes, a flow is one Bytewax cluster, and
    its processes are called `name-0`, `name-1` …
    """
    started: dict[str, Process] = {}
    try:
        for name in names:
            if name in FLOW_GROUPS:
                started |= _flow(settings, directory, name, processes)
            else:
                started[name] = Process(settings, directory / f"{name}.log", name)
        yield started
    finally:
        for process in started.values():
            process.kill()


def _flow(settings: Settings, directory: Path, name: str, processes: int) -> dict[str, Process]:
    store = directory / name
    if not store.exists():
        store.mkdir()
        init_db_dir(store, RECOVERY_PARTITIONS)
    command = ["bytewax.run", name, "-r", str(store), "-s", "1", "-b", "0"]
    if processes == 1:
        return {name: Process(settings, directory / f"{name}.log", *command)}
    addresses = ";".join(f"127.0.0.1:{free_port()}" for _ in range(processes))
    return {
        f"{name}-{index}": Process(
            settings, directory / f"{name}-{index}.log", *command, "-i", str(index), "-a", addresses
        )
        for index in range(processes)
    }


def stop(started: dict[str, Process]) -> None:
    """Stop all processes with SIGTERM, as a deployment does, and assert exit code 0."""
    for process in started.values():
        process.terminate()
    for process in started.values():
        assert process.wait() == 0, process.output()


def lag_of(settings: Settings, name: str) -> int:
    """The lag of a flow or of the workers (`feed-worker`), in messages of all their topics."""
    try:
        return lag(settings, name, ends_of(settings, INPUT_TOPICS[name], idle_s=0.0))
    except BrokerUnreachable:  # a busy one answers late, a restarted one still loads the offsets of the groups
        return sys.maxsize


def outputs(started: dict[str, Process]) -> str:
    """The end of the log of each process."""
    return "\n".join(f"{name}:\n{process.output()[-3_000:]}" for name, process in started.items())
