"""The one clock that every rule about age, retention or lateness asks. Imports nothing else of the house."""

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time that rules go by, in epoch milliseconds."""

    def observe(self, at_ms: int) -> None:
        """Take note of the time of an event."""

    def now_ms(self) -> int:
        """The time."""


class WallClock:
    """Time as it passes: for service."""

    def observe(self, at_ms: int) -> None:
        """Events do not move this clock."""

    def now_ms(self) -> int:
        """The wall clock's time."""
        return time.time_ns() // 1_000_000


class LogClock:
    """The newest event's time: for replays, so that an old log behaves as it did live."""

    def __init__(self) -> None:
        self._newest_ms = 0

    def observe(self, at_ms: int) -> None:
        """Move forward to an event's time; never back."""
        self._newest_ms = max(self._newest_ms, at_ms)

    def now_ms(self) -> int:
        """The newest time observed, 0 before the first."""
        return self._newest_ms


def clock_of(kind: str) -> Clock:
    """The clock of a setting: `wall` or `log`."""
    return LogClock() if kind == "log" else WallClock()
