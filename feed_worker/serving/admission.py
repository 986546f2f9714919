"""Admission control: who is computed, with how much care, and who is told at once that it is too late.

Work that nobody waits for any more is what makes an overloaded service fall behind for good. So a request that has
waited too long is answered without work; and before it comes to that, feeds are made from fewer candidates.
"""

import threading
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

QUEUED_MS: Final = 1_200
"""A wait from which on the worker counts as overloaded; the published serving drops what was queued for longer."""

QUALITIES: Final = (1.0, 0.7, 0.5, 0.35, 0.25)
"""The steps of the published quality factor, by which sources multiply how many candidates they look for."""

SMOOTHING: Final = 0.2
MARGIN_MS: Final = 30
"""As published: the weight of the newest service time in their moving average, and what is added to it."""


class Refusal(NamedTuple):
    """The status of a request that is answered without work, and why."""

    status: Literal["expired", "failed"]
    reason: str


@dataclass
class Admission:
    """Rules that depend on nothing but what they are told, in the order in which they are told it.

    - Refused as `expired`: the deadline is past, or comes before an answer could, going by how long batches have taken.
    - Refused as `failed`: it waited longer than `max_wait_ms`.
    - Quality steps down for each batch whose longest wait exceeds `QUEUED_MS`, or half of `max_wait_ms` where that is
      less; it steps up again for each whose longest wait is below a quarter of it, and stays in between.
    """

    max_wait_ms: int
    _step: int = 0
    _service_ms: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def refusal(self, waited_ms: int, left_ms: int) -> Refusal | None:
        """Whether to answer a request at once.

        Args:
            waited_ms: since it arrived at the broker.
            left_ms: until its deadline.

        """
        if left_ms < 0:
            return Refusal("expired", "its deadline is past")
        if left_ms < self._service_ms + MARGIN_MS:
            return Refusal("expired", f"its deadline is in {left_ms} ms, a feed takes {self._service_ms:.0f} ms")
        if waited_ms > self.max_wait_ms:
            return Refusal("failed", f"overloaded: waited {waited_ms / 1000:.1f} s")
        return None

    def quality(self, longest_wait_ms: int) -> float:
        """How much care to take with a batch of which one request has waited so long; 1 is all."""
        queued_ms = min(QUEUED_MS, self.max_wait_ms // 2)
        if longest_wait_ms > queued_ms:
            self._step = min(self._step + 1, len(QUALITIES) - 1)
        elif longest_wait_ms < queued_ms // 4:
            self._step = max(self._step - 1, 0)
        return QUALITIES[self._step]

    def served(self, took_ms: float) -> None:
        """Take note of how long a batch took, from its forming to its delivery; may be called from another thread.

        Batches of refusals alone count too: they take next to nothing, so that an estimate that refuses everybody does
        not stand for ever.
        """
        with self._lock:
            self._service_ms += SMOOTHING * (took_ms - self._service_ms)
