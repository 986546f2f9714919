"""The fork server: imports the packages of several programs once, and forks a process for each program. Linux alone.

`python -m infra.stack.fork_server OPTIONS`, with `Options` as JSON, started by `ForkServer`. A forked process shares
the memory of the imported packages until it writes to it, and starts seconds earlier than one that imports them.

A fork copies one thread alone. So imports must start no thread that is needed later: JAX starts its threads with the
first array, librdkafka with the first client, and OpenBLAS stops and starts its threads around a fork.

The programs become children of the process that started the server (a subreaper), and the server ends.
"""

import contextlib
import ctypes
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

import msgspec

from infra.stack.parent_death import die_with
from infra.stack.processes import Child, Children

PR_SET_NAME: Final = 15
PR_SET_CHILD_SUBREAPER: Final = 36
POLL_S: Final = 0.1


class Program(msgspec.Struct, frozen=True):
    """A module that runs as `python -m MODULE ARGUMENT…`."""

    name: str
    module: str
    arguments: list[str]
    imports: list[str]
    """Modules that the server imports before it forks this program."""


class Options(msgspec.Struct, frozen=True):
    """The arguments of the server."""

    parent: int
    """Process id of the parent of all programs."""
    environment_fd: int
    """Gives the environment of the programs, as JSON."""
    pids_fd: int
    """Takes a line with name and process id of each program that has started."""
    log_directory: str
    programs: list[Program]
    """In the order in which they are imported and forked: each has the imports of those before it."""


class Forked:
    """A process that the fork server started, with the methods of `subprocess.Popen` that `Child` calls."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit code; raises TimeoutExpired."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        return code


class ForkServer:
    """Starts the server, which imports at once and forks after `start`. Use it in the main thread.

    Args:
        children: gets the server, and each program.
        programs: in the order in which they are imported and forked.
        environment: of the server, as far as imports and the C library read it.

    """

    def __init__(self, children: Children, programs: Sequence[Program], environment: Mapping[str, str]) -> None:
        self._children = children
        self._missing = {program.name for program in programs}
        environment_fd, self._environment_fd = os.pipe()
        self._pids_fd, pids_fd = os.pipe()
        self._text = b""
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        options = Options(os.getpid(), environment_fd, pids_fd, str(children.log_directory), [*programs])
        command = [sys.executable, "-m", "infra.stack.fork_server", msgspec.json.encode(options).decode()]
        self._server = children.start("fork-server", command, environment, inherited=[environment_fd, pids_fd])
        os.close(environment_fd)
        os.close(pids_fd)

    def start(self, environment: Mapping[str, str]) -> None:
        """Let the programs start, with this environment."""
        with contextlib.suppress(BrokenPipeError), os.fdopen(self._environment_fd, "w") as pipe:  # `wait` reports it
            self._environment_fd = -1
            json.dump(dict(environment), pipe)

    def wait(self, check: Callable[[], None]) -> dict[str, Child]:
        """Wait until all programs have started; calls `check` meanwhile. Raises `ChildDied`."""
        started: dict[str, Child] = {}
        while (found := self._read(POLL_S)) is not None:
            started |= found
            check()
        if self._missing:
            self._server.wait(time.monotonic() + 1.0)
            raise self._server.died()
        self.close()
        return started

    def close(self) -> None:
        """End the server; programs that it has forked meanwhile become children of `children`."""
        if self._pids_fd < 0:
            return
        self._server.signal(signal.SIGKILL)
        self._server.wait(time.monotonic() + 1.0)
        self._children.forget(self._server)
        while self._read(POLL_S) is not None:
            pass
        for fd in (self._pids_fd, self._environment_fd):
            if fd >= 0:
                os.close(fd)
        self._pids_fd = self._environment_fd = -1
        _prctl(PR_SET_CHILD_SUBREAPER, 0)

    def _read(self, timeout_s: float) -> dict[str, Child] | None:
        """The programs that have started meanwhile; None if there will be no more."""
        poll = select.poll()  # unlike `select`, it takes a descriptor above 1,023
        poll.register(self._pids_fd, select.POLLIN)
        if not poll.poll(timeout_s * 1_000):
            return {}
        text = os.read(self._pids_fd, 4096)
        *lines, self._text = (self._text + text).split(b"\n")
        pids = {name: int(pid) for name, pid in (line.decode().split() for line in lines)}
        self._missing -= pids.keys()
        return {name: self._children.adopt(name, Forked(pid)) for name, pid in pids.items()} if text else None


def main() -> None:
    """Import, fork, and run a program in each fork."""
    options = msgspec.json.decode(sys.argv[1], type=Options)
    program = _fork_all(options)
    if program is not None:
        sys.argv = [program.module, *program.arguments]
        runpy.run_module(program.module, run_name="__main__", alter_sys=True)


def _fork_all(options: Options) -> Program | None:
    """Fork all programs; returns the program in its process, and None in the server."""
    gc.disable()  # imports create no garbage worth the search
    environment: dict[str, str] | None = None
    for program in options.programs:
        for module in program.imports:
            import_module(module)
        if environment is None:
            with os.fdopen(options.environment_fd) as pipe:
                environment = json.load(pipe)
            os.environ.update(environment)
        gc.freeze()  # a collection would write to every object, and so copy the shared memory
        if _fork(program, options):
            gc.enable()
            return program
    return None


def _fork(program: Program, options: Options) -> bool:
    """Fork a grandchild, whose parent ends, so that it becomes a child of the subreaper. True in the grandchild."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 counts the threads of OpenBLAS
        if between := os.fork():
            os.waitpid(between, 0)
            return False
        between = os.getpid()
        if os.fork():
            os._exit(0)
    os.setsid()
    while os.getppid() == between:
        time.sleep(0.001)
    die_with(options.parent)
    _prctl(PR_SET_NAME, program.name.encode())
    log = os.open(Path(options.log_directory, f"{program.name}.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.write(options.pids_fd, f"{program.name} {os.getpid()}\n".encode())
    os.close(options.pids_fd)
    return True


def _prctl(option: int, value: int | bytes) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
