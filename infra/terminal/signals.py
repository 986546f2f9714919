"""Ctrl-C, SIGTERM and SIGHUP end a command with its cleanup, once; no code can swallow them."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONGEST_EXIT_S = 120
"""Time limit of the cleanup, above the sum of all grace periods; after it SIGALRM ends the process and its children."""

_arrived: list[int] = []


@contextmanager
def unwinding() -> Iterator[None]:
    """Within the block a signal raises KeyboardInterrupt or SystemExit in the main thread; later ones are ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored, sys.unraisablehook = sys.unraisablehook, _ignored
    handlers = {number: signal.signal(number, _stop) for number in SIGNALS}
    try:
        yield
    except SystemError:  # the C code of a library returned a result beside the exception of a signal
        check()
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        sys.unraisablehook = ignored


@contextmanager
def held_back() -> Iterator[None]:
    """Defer signals until the end of the block. Call it in the main thread.

    The signals are not blocked: a child would inherit the block, and another thread would still receive them.
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
    """Raise the exception of a signal again, in case Python ignored it, as in `__del__`."""
    if _arrived:
        _raise(_arrived[0])


def _stop(number: int, _frame: FrameType | None) -> None:
    if _arrived:  # a second signal would interrupt the cleanup, which has a time limit
        return
    _arrived.append(number)
    signal.alarm(LONGEST_EXIT_S)
    _raise(number)


def _ignored(unraisable: "sys.UnraisableHookArgs") -> None:
    """Print an ignored exception, except that of a signal: `check` raises it again."""
    if not (_arrived and issubclass(unraisable.exc_type, KeyboardInterrupt | SystemExit)):
        sys.__unraisablehook__(unraisable)


def _raise(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
