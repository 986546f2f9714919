"""Ctrl-C and its like: where there is something to clean up they unwind it, once, and nothing can swallow them."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONGEST_EXIT_S = 10
"""After this an exit that hangs is cut short; the children of the process die with it."""

_arrived: list[int] = []


@contextmanager
def unwinding() -> Iterator[None]:
    """Meanwhile a signal raises KeyboardInterrupt or SystemExit in the main thread; further ones change nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored, sys.unraisablehook = sys.unraisablehook, _ignored
    handlers = {number: signal.signal(number, _stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        sys.unraisablehook = ignored


@contextmanager
def held_back() -> Iterator[None]:
    """Handle signals that arrive meanwhile afterwards; to be used in the main thread.

    They are not blocked: a child would inherit that, and another thread would still take them.
    """
    meanwhile: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: meanwhile.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler or signal.SIG_DFL)
        for number in meanwhile:
            signal.raise_signal(number)


def check() -> None:
    """Raise again what a signal has raised: it may have hit a place where exceptions are ignored, such as `__del__`."""
    if _arrived:
        _raise(_arrived[0])


def _stop(number: int, _frame: FrameType | None) -> None:
    if _arrived:  # a second one would only interrupt the cleaning up, which takes a few seconds at most
        return
    _arrived.append(number)
    signal.alarm(LONGEST_EXIT_S)
    _raise(number)


def _ignored(unraisable: "sys.UnraisableHookArgs") -> None:
    """Print what was raised where it is ignored, unless a signal did: `check` raises that again."""
    if not (_arrived and issubclass(unraisable.exc_type, KeyboardInterrupt | SystemExit)):
        sys.__unraisablehook__(unraisable)


def _raise(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
