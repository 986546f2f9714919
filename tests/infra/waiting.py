"""Waits for conditions, and the state of other processes."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

import psutil

MARK = "MARK_OF_A_TEST"
T = TypeVar("T")


def eventually(condition: Callable[[], bool], timeout_s: float = 600.0) -> None:
    """Wait until a condition is true, and fail after the timeout."""
    assert last_value(condition, timeout_s, 0.01), f"the condition is still false after {timeout_s} s"


def last_value(condition: Callable[[], T], timeout_s: float, poll_s: float) -> T:
    """Poll until `condition` returns a true value, and return it; after the timeout return its last value.

    A condition that takes long is polled less often: it takes the processor from the processes that it waits for.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        since = time.monotonic()
        value = condition()
        now = time.monotonic()
        if value or now > deadline:
            return value
        time.sleep(min(max(poll_s, 3 * (now - since)), 1.0))


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
