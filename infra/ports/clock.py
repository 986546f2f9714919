"""Clocks for the rules about age, retention and lateness; units of time in ms."""

import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
CLOCK_WINDOW: Final = 1_000
"""The event times that a log's clock looks at: of a batch only the last ones count."""


def now_ms() -> int:
    """Return the wall clock's time in epoch milliseconds."""
    return time.time_ns() // 1_000_000


class Clock(Protocol):
    """A clock of the rules, in epoch milliseconds."""

    def observe(self, times_ms: Sequence[int]) -> None:
        """Receive the times of events, in the order of their reading."""

    def now_ms(self) -> int:
        """Return the time."""


class WallClock:
    """The wall clock, for live traffic."""

    def observe(self, times_ms: Sequence[int]) -> None:
        """Ignore the times of events."""

    def now_ms(self) -> int:
        """Return the wall clock's time."""
        return now_ms()


class LogClock:
    """The time of a log, for replays: the rules then decide as they did live.

    The clock follows the bulk of the log. It shows the newest of the last `CLOCK_WINDOW` event times, without the
    outliers: a time far ahead of nine tenths of the others. It never goes back once it has observed `CLOCK_WINDOW`
    events; before that, the first events may have been the outliers. Any thread may call.
    """

    _BULK: Final = 0.9
    _LEAP_MS: Final = 6 * HOUR_MS
    """The distance ahead of the bulk that is an outlier's: a smaller one makes few posts too old."""
    _FEW: Final = 10
    _LEAP_OF_FEW_MS: Final = 7 * DAY_MS
    """The distance while fewer than `_FEW` events are known, which may lie days apart."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=CLOCK_WINDOW)
        self._now_ms = 0
        self._lock = threading.Lock()

    def observe(self, times_ms: Sequence[int]) -> None:
        """Receive the times of events; times far behind the clock do not count."""
        with self._lock:
            is_settled = len(self._recent) == CLOCK_WINDOW
            oldest_ms = self._now_ms - self._LEAP_MS if is_settled else 0
            self._recent.extend(at for at in times_ms[-CLOCK_WINDOW:] if at >= oldest_ms)
            ordered = sorted(self._recent)
            if ordered:
                bulk_ms = ordered[int(self._BULK * (len(ordered) - 1))]
                newest_ms = ordered[bisect_right(ordered, bulk_ms + self._leap_ms) - 1]
                self._now_ms = max(self._now_ms, newest_ms) if is_settled else newest_ms

    def is_outlier(self, at_ms: int) -> bool:
        """True for a time that is too far ahead of the log to move the clock."""
        return at_ms > self._now_ms + self._leap_ms

    def now_ms(self) -> int:
        """Return the log's time, 0 before the first event."""
        return self._now_ms

    @property
    def _leap_ms(self) -> int:
        return self._LEAP_MS if len(self._recent) >= self._FEW else self._LEAP_OF_FEW_MS


def clock_of(kind: str) -> Clock:
    """Return the clock of a setting: `wall` or `log`."""
    return LogClock() if kind == "log" else WallClock()
