"""Child processes, each in a session of its own, with a log file; they are stopped together.

Only the main thread may start and stop children: Linux ties a child to the thread that started it, and Python handles
signals in the main thread.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

from infra.ports.errors import ForYouError
from infra.terminal.signals import held_back

CHILD = Path(__file__).with_name("parent_death.py")
TAIL_LINES = 12
TAIL_BYTES = 16_384
KILL_WAIT_S = 1.0


class ChildDied(ForYouError, RuntimeError):
    """A process of the stack has ended by itself; the text has its name, its exit code and the end of its log."""


class Process(Protocol):
    """A child process of this one, such as `subprocess.Popen`."""

    pid: int

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""

    def wait(self, timeout: float) -> int:
        """The exit code; raises TimeoutExpired."""


class Child:
    """A process of `Children`."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name, self.log = name, log
        self.pid = process.pid
        self._process = process

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def tail(self) -> str:
        """The last lines of its log."""
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def died(self) -> ChildDied:
        """The error for its end."""
        return ChildDied(f"{self.name} ended with exit code {self.poll()}; the end of {self.log}:\n{self.tail()}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and to all that it has started."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def wait(self, until: float) -> bool:
        """True if it ends by `until`, a time of the monotonic clock."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until - time.monotonic()))
        return self.poll() is not None


class Children:
    """Processes that start one after another and stop together; a context manager that stops them."""

    def __init__(self, log_directory: Path) -> None:
        self.log_directory = log_directory
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children)

    def __getitem__(self, name: str) -> Child:
        return next(child for child in self._children if child.name == name)

    def start(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        inherited: Sequence[int] = (),
        is_tied: bool = True,
    ) -> Child:
        """Start a program.

        Args:
            name: of the process and its log file.
            command: program and arguments.
            env: added to the environment of this process.
            inherited: file descriptors that the program inherits.
            is_tied: Linux kills the program once this process is gone. Otherwise the program must end by itself.

        """
        self.log_directory.mkdir(parents=True, exist_ok=True)
        log = self._log_of(name)
        # a signal between start and entry would leave a child running
        with log.open("wb") as output, held_back():
            process = subprocess.Popen(
                # isolated and without site: it starts in 20 ms, and only execs
                [*([sys.executable, "-I", "-S", str(CHILD), str(os.getpid())] if is_tied else []), *command],
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=inherited,
                start_new_session=True,  # Ctrl-C reaches this process alone; it stops the children in order
            )
            return self._added(Child(name, process, log))

    def adopt(self, name: str, process: Process) -> Child:
        """Add a child of this process that another one has started; it writes to the log file of its name."""
        return self._added(Child(name, process, self._log_of(name)))

    def forget(self, child: Child) -> None:
        """Remove a child that may end, or has ended."""
        self._children = [each for each in self._children if each is not child]

    def _added(self, child: Child) -> Child:
        self._children.append(child)
        return child

    def _log_of(self, name: str) -> Path:
        return self.log_directory / f"{name}.log"

    def check(self) -> None:
        """Raise `ChildDied` for the first that has ended."""
        for child in self._children:
            if child.poll() is not None:
                raise child.died()

    def stop(self, grace_s: float = 3.0) -> None:
        """Send SIGTERM, to the last started first; after `grace_s` kill those that still run."""
        with held_back():
            for child in reversed(self._children):
                child.signal(signal.SIGTERM)
            deadline = time.monotonic() + grace_s
            for child in self._children:
                if not child.wait(deadline):
                    child.signal(signal.SIGKILL)
            for child in self._children:
                child.wait(time.monotonic() + KILL_WAIT_S)
            self._children.clear()
