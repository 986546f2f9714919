"""Waits for conditions, and the state of other processes."""

import os
import time
from collections.abc import Callable

import psutil

MARK = "MARK_OF_A_TEST"


def eventually(condition: Callable[[], bool], timeout_s: float = 600.0) -> None:
    """Wait until a condition is true, and fail after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"the condition is still false after {timeout_s} s"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """True if no process with this id runs."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def marked(mark: str) -> list[str]:
    """The command lines of the processes with a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.pid != os.getpid():
                found.append(" ".join(process.cmdline()))
        except psutil.Error:  # it has ended, or belongs to another user
            continue
    return found
