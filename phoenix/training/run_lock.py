"""The lock of a directory of checkpoints: one training run at a time writes there.

Two runs in one directory would remove each other's unfinished checkpoints, and the newest one would be of either run.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from infra.ports.errors import ForYouError

_LOCK: Final = "lock"


class DirectoryInUse(ForYouError, RuntimeError):
    """Another run writes checkpoints to the directory; the text has its process id."""


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory, and create the directory if it is missing.

    The system releases the lock when the process ends, even if it is killed.

    Raises:
        DirectoryInUse: another run holds the lock.

    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode() or "unknown"
            raise DirectoryInUse(
                f"{directory} is in use by a training run with process id {holder}: wait for its end, or choose "
                "another directory"
            ) from None
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)
