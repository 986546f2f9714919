"""Outages of a server: one log line for the start and one for the end, for all clients of a process."""

import logging
import threading
import time
from functools import cache
from typing import Final

log = logging.getLogger(__name__)

SETTLE_S: Final = 5.0
"""Time after the end of an outage during which late reports of other clients start no new one."""


class Outage:
    """The state of one server. Any thread may call.

    Args:
        server: name of the server, for the log.
        address: without password.

    """

    def __init__(self, server: str, address: str) -> None:
        self._server = f"{server} at {address}"
        self._is_open = False
        self._ended_at = -SETTLE_S
        self._lock = threading.Lock()

    def begins(self, reason: object) -> None:
        """Record that the server does not answer; log the first report."""
        with self._lock:
            if not self._is_open and time.monotonic() - self._ended_at > SETTLE_S:
                self._is_open = True
                log.warning("%s is unreachable (%s); retrying", self._server, reason)

    def ends(self) -> None:
        """Record that the server answers; log the first answer after an outage."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._ended_at = time.monotonic()
                log.warning("%s is reachable again", self._server)


@cache
def outage(server: str, address: str) -> Outage:
    """Return the one `Outage` of a server in this process."""
    return Outage(server, address)
