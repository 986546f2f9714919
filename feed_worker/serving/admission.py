"""Admission control: load shedding of late requests, and a quality factor that lowers the cost of a feed under load.

An overloaded service falls behind without limit if it computes answers that come too late. So a request that has
waited too long is answered without work. Before that, feeds are made from fewer candidates.
"""

import threading
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

QUEUED_MS: Final = 1_200
"""A longer wait counts as overload; the published system drops requests that were queued for longer."""

QUALITIES: Final = (1.0, 0.7, 0.5, 0.35, 0.25)
"""The steps of the published quality factor. Sources multiply their number of candidates by it."""

SMOOTHING: Final = 0.2
"""As published: the weight of the newest service time in the exponential moving average."""

MARGIN_MS: Final = 30
"""As published: added to the expected service time."""


class Refusal(NamedTuple):
    """The status of a request that is answered without work, and the reason."""

    status: Literal["expired", "failed"]
    reason: str


@dataclass
class Admission:
    """Deterministic rules over waits and service times; reads no clock.

    - Refused as `expired`: the deadline has passed, or is nearer than the expected service time.
    - Refused as `failed`: the wait is longer than `max_wait_ms`.
    - Quality goes one step down after a batch whose longest wait exceeds `QUEUED_MS`, or half of `max_wait_ms` if that
      is less. It goes one step up after a batch whose longest wait is below a quarter of that. Else it stays.

    `refusal` and `quality` are for the intake thread, `observe_service_time` for any thread.

    Attributes:
        max_wait_ms: the longest wait of a request that is still computed.

    """

    max_wait_ms: int
    _step: int = 0
    _service_ms: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def refusal(self, waited_ms: int, left_ms: int) -> Refusal | None:
        """The refusal of a request; None if it is admitted.

        Args:
            waited_ms: the time since its arrival at the broker.
            left_ms: the time until its deadline; negative if that has passed.

        """
        if left_ms < 0:
            return Refusal("expired", "its deadline is past")
        if left_ms < self._service_ms + MARGIN_MS:
            return Refusal("expired", f"its deadline is in {left_ms} ms, a feed takes {self._service_ms:.0f} ms")
        if waited_ms > self.max_wait_ms:
            return Refusal("failed", f"overloaded: waited {waited_ms / 1000:.1f} s")
        return None

    def quality(self, longest_wait_ms: int) -> float:
        """The quality factor of the next batch, from 0.25 to 1, given the longest wait of its requests."""
        queued_ms = min(QUEUED_MS, self.max_wait_ms // 2)
        if longest_wait_ms > queued_ms:
            self._step = min(self._step + 1, len(QUALITIES) - 1)
        elif longest_wait_ms < queued_ms // 4:
            self._step = max(self._step - 1, 0)
        return QUALITIES[self._step]

    def observe_service_time(self, took_ms: float) -> None:
        """Update the moving average with one batch's time from forming to delivery.

        Batches of refused requests count, too. They take almost no time, so an estimate that refuses every request
        soon falls.
        """
        with self._lock:
            self._service_ms += SMOOTHING * (took_ms - self._service_ms)
