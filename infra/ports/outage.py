"""A server that is away: said once, however many clients of this process notice."""

import logging
import threading
import time
from functools import cache

log = logging.getLogger(__name__)

SETTLES_S = 5.0


class Outage:
    """Whether a server is away; says when that begins and when it ends.

    Right after an end, late reports of the same outage by other clients are no new one.
    """

    def __init__(self, what: str, address: str) -> None:
        self._server = f"{what} at {address}"
        self._away = False
        self._ended_at = -SETTLES_S
        self._lock = threading.Lock()

    def begins(self, reason: object) -> None:
        """Note that the server does not answer."""
        with self._lock:
            if not self._away and time.monotonic() - self._ended_at > SETTLES_S:
                self._away = True
                log.warning("%s is away (%s); waiting for it", self._server, reason)

    def ends(self) -> None:
        """Note that the server answers."""
        with self._lock:
            if self._away:
                self._away = False
                self._ended_at = time.monotonic()
                log.warning("%s is back", self._server)


@cache
def outage(what: str, address: str) -> Outage:
    """The one outage of a server in this process."""
    return Outage(what, address)
