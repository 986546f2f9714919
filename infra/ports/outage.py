"""Outages of a server: the state, and one log line for the start and one for the end, for all clients of a process."""

import logging
import threading
import time
from typing import Final

log = logging.getLogger(__name__)

SETTLE_S: Final = 5.0
"""Time after the end of an outage during which late reports of other clients start no new one."""


class Outage:
    """The state of one server. Any thread may call.

    Args:
        server: name of the server, for the log and for metrics.
        address: without password.

    """

    def __init__(self, server: str, address: str) -> None:
        self.server, self._place = server, f"{server} at {address}"
        self._reason: object = None
        self._is_open = False
        self._count = 0
        self._ended_at = -SETTLE_S
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """The number of outages so far."""
        return self._count

    @property
    def problem(self) -> str | None:
        """One line with the server, its address and the reason during an outage; else None."""
        with self._lock:
            return f"{self._place} is unreachable ({self._reason})" if self._is_open else None

    def begins(self, reason: object) -> None:
        """Record that the server does not answer; log the first report."""
        with self._lock:
            if not self._is_open and time.monotonic() - self._ended_at > SETTLE_S:
                self._is_open, self._reason = True, reason
                self._count += 1
                log.warning("%s is unreachable (%s); retrying", self._place, reason)

    def ends(self) -> None:
        """Record that the server answers; log the first answer after an outage."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._ended_at = time.monotonic()
                log.warning("%s is reachable again", self._place)


_outages: Final[dict[tuple[str, str], Outage]] = {}
_lock: Final = threading.Lock()


def outage(server: str, address: str) -> Outage:
    """Return the one `Outage` of a server in this process."""
    with _lock:
        return _outages.setdefault((server, address), Outage(server, address))


def outages() -> list[Outage]:
    """The servers that this process uses, in or out of an outage: for metrics and readiness."""
    with _lock:
        return list(_outages.values())
