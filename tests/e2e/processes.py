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
from infra.ports.kafka_admin import admin, ends_of, lag
from infra.ports.kafka_config import FLOW_GROUPS
from infra.ports.settings import Settings
from infra.stack.processes import CHILD
from tests.e2e.containers import free_port

READ = FLOW_GROUPS | {"feed-worker": ("feed-requests",)}
"""What each consumer group finishes."""
RECOVERY_PARTITIONS = 2
"""Of every recovery store: fixed when it is made, however many processes come and go."""


class Process:
    """A process of the product; its output goes to a file, which goes on when it is started again."""

    def __init__(self, settings: Settings, log: Path, *arguments: str) -> None:
        self._settings, self._log, self._arguments = settings, log, arguments
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                # through the shim that ends it with this process, should that be killed
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
        """Have it do nothing, and not know that it does nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, timeout_s: float = 600.0) -> int:
        """The exit code, once it has ended; one that does not end says where it is."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.abort()
            raise AssertionError(self.output()) from None

    def abort(self) -> None:
        """End it, and have it say where it was."""
        self._process.send_signal(signal.SIGABRT)
        self._process.wait()

    def output(self) -> str:
        return self._log.read_text()


@contextmanager
def running(settings: Settings, directory: Path, *names: str, processes: int = 1) -> Iterator[dict[str, Process]]:
    """Flows and workers by name, killed in the end.

    A flow resumes from the recovery store in `directory`; where it runs in several processes these make one Bytewax
    cluster, and are called `name-0`, `name-1` …
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
    """Ask all to end, as a deployment does, and see them end well."""
    for process in started.values():
        process.terminate()
    for process in started.values():
        assert process.wait() == 0, process.output()


def behind(settings: Settings, name: str) -> int:
    """How many of the messages that stand in its topics a flow, or the workers (`feed-worker`), have not finished."""
    ends = ends_of(settings, READ[name], idle_s=0.0)
    try:
        return lag(admin(settings), settings, name, ends)
    except BrokerUnreachable:  # only just back, and still reading what groups have finished
        return sum(ends.values())


def outputs(started: dict[str, Process]) -> dict[str, str]:
    """The end of what each process has said."""
    return {name: process.output()[-3_000:] for name, process in started.items()}
