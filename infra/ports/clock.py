"""Clocks for the rules about age, retention and lateness; units of time in ms."""

import time
from typing import Final, Protocol

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS


def now_ms() -> int:
    """Return the wall clock's time in epoch milliseconds."""
    return time.time_ns() // 1_000_000


class Clock(Protocol):
    """A clock of the rules, in epoch milliseconds."""

    def observe(self, at_ms: int) -> None:
        """Receive the time of an event."""

    def now_ms(self) -> int:
        """Return the time."""


class WallClock:
    """The wall clock, for live traffic."""

    def observe(self, at_ms: int) -> None:
        """Ignore the time of an event."""

    def now_ms(self) -> int:
        """Return the wall clock's time."""
        return now_ms()


class LogClock:
    """The time of the newest event, for replays: the rules then decide as they did live."""

    def __init__(self) -> None:
        self._newest_ms = 0

    def observe(self, at_ms: int) -> None:
        """Move forward to an event's time, never back."""
        self._newest_ms = max(self._newest_ms, at_ms)

    def now_ms(self) -> int:
        """Return the newest time observed, 0 before the first."""
        return self._newest_ms


def clock_of(kind: str) -> Clock:
    """Return the clock of a setting: `wall` or `log`."""
    return LogClock() if kind == "log" else WallClock()
