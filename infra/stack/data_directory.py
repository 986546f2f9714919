"""The directory of a stack: one stack at a time, the flows' recovery stores of one Kafka cluster, logs."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import psutil

from infra.ports.cluster_binding import bind_to_cluster
from infra.ports.errors import ForYouError

RELEASE_TIMEOUT_S: Final = 60.0


class DataDirectoryInUse(ForYouError, RuntimeError):
    """Another stack uses the directory; the text has its process id."""


class DataDirectory:
    """A locked directory; a context manager.

    Args:
        path: of the directory, created on entering.
        print_line: receives a line if entering must wait.

    Raises:
        DataDirectoryInUse: on entering.

    """

    def __init__(self, path: Path, print_line: Callable[[str], None] = lambda _: None) -> None:
        self.path, self._print_line = path, print_line
        self._lock = -1

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._acquire()
        except BaseException:
            os.close(self._lock)
            raise
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    @property
    def lock(self) -> int:
        """The descriptor of the lock. A child that inherits it keeps the directory locked until it ends."""
        return self._lock

    def recovery_of(self, flow: str) -> Path:
        """The directory for the recovery store of a flow."""
        return self._recovery / flow

    def discard_recovery(self) -> None:
        """Remove the recovery stores: the flows derive their state from the log again."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._recovery)

    def bind(self, cluster_id: str) -> None:
        """Tie the recovery stores to a Kafka cluster.

        Raises:
            OtherCluster: they hold offsets of another one.

        """
        remedy = f"choose another directory with --data, or delete {self._recovery} to read that log from its beginning"
        bind_to_cluster(self._recovery, cluster_id, remedy)

    @property
    def _recovery(self) -> Path:
        return self.path / "recovery"

    def _acquire(self) -> None:
        deadline = time.monotonic() + RELEASE_TIMEOUT_S
        is_waiting = False
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(self._lock, 32, 0).decode()
                # the log keeper of a stack that was killed ends a moment later
                if _runs(int(holder or 0)) or time.monotonic() > deadline:
                    raise DataDirectoryInUse(
                        f"{self.path} is in use by `foryou up` with process id {holder}: stop it, or choose another "
                        "directory with --data"
                    ) from None
                if not is_waiting:
                    is_waiting = True
                    self._print_line("wait until the log keeper of a stack that was killed has written its log")
                time.sleep(0.1)
            else:
                return


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
