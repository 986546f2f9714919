"""Outages of a server: the state, and one log line for the start and one for the end, for all clients of a process."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

SETTLE_S: Final = 5.0
"""Time after the end of an outage during which late reports of other clients start no new one."""
PROBE_S: Final = 1.0
"""The pause between two probes of a server that does not answer."""


class Outage:
    """The state of one server. Any thread may call.

    Args:
        server: name of the server, for the log and the metrics.
        address: without password.
        trouble: the predicate of the first log line.
        recovery: the predicate of the second log line.

    Attributes:
        count: the number of outages of this process so far.

    """

    def __init__(
        self, server: str, address: str, trouble: str = "is unreachable", recovery: str = "is reachable again"
    ) -> None:
        self.server, self.count = server, 0
        self._name, self._trouble, self._recovery = f"{server} at {address}", trouble, recovery
        self._reason: str | None = None
        self._ended_at = -SETTLE_S
        self._waiting = set[object]()
        self._lock = threading.Lock()

    @property
    def problem(self) -> str | None:
        """The open outage as a line; None while the server answers."""
        reason = self._reason
        return None if reason is None else f"{self._name} {self._trouble} ({reason})"

    def begins(self, reason: object, probe: Callable[[], bool] | None = None, reporter: object | None = None) -> None:
        """Record that the server does not answer; log the first report.

        Args:
            reason: for the log.
            probe: returns True once the server answers. A thread calls it until then: an idle client would not notice
                the end of the outage.
            reporter: the outage does not end before this one has reported its end, or left. One part of a cluster may
                answer while another does not.

        """
        with self._lock:
            if reporter is not None:
                self._waiting.add(reporter)
            if self._reason is not None or time.monotonic() - self._ended_at <= SETTLE_S:
                return
            self._reason, self.count = str(reason), self.count + 1
            log.warning("%s %s (%s); retrying", self._name, self._trouble, reason)
        if probe is not None:
            threading.Thread(target=self._await, args=(probe,), name=f"probe of {self.server}", daemon=True).start()

    def ends(self, reporter: object | None = None) -> None:
        """Record that the server answers; the last reporter ends the outage, with a line in the log."""
        if self._reason is None and not self._waiting:  # without the lock: called for each batch
            return
        with self._lock:
            self._waiting.discard(reporter)
            if self._reason is not None and not self._waiting:
                self._reason = None
                self._ended_at = time.monotonic()
                log.warning("%s %s", self._name, self._recovery)

    def leave(self, reporter: object) -> None:
        """Forget a reporter that waits no longer."""
        self._waiting.discard(reporter)

    def _await(self, probe: Callable[[], bool]) -> None:
        while self._reason is not None:
            if probe():
                self.ends()
            else:
                time.sleep(PROBE_S)


_known: Final[dict[tuple[str, str], Outage]] = {}
_lock: Final = threading.Lock()


def outage(server: str, address: str, **texts: str) -> Outage:
    """Return the one `Outage` of a server in this process; `texts` as for its constructor."""
    with _lock:
        return _known.setdefault((server, address), Outage(server, address, **texts))


def outages() -> list[Outage]:
    """Return the outages of all servers that this process uses."""
    with _lock:
        return list(_known.values())


def open_outage() -> str | None:
    """Return the first open outage as a line; None while all servers answer."""
    return next((problem for each in outages() if (problem := each.problem)), None)
