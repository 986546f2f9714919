"""The arrival of requests: their order, and the start of their waits."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from feed_worker.serving.offsets import Partition

MAX_VIEWERS: Final = 10_000
"""The viewers whose last arrival is known."""


class Arrivals:
    """Orders the requests of each viewer, and measures waits on the clock of this machine. For the intake thread alone.

    The clock of a broker may differ from that of the worker. Without `LogAppendTime` a later request may carry an
    earlier time.
    """

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[Partition, str], tuple[int, int]] = OrderedDict()
        self._fetched: set[Partition] = set()
        self._reached_ms: dict[Partition, int] = {}

    def in_order(self, partition: Partition, viewer: str, arrived_ms: int) -> tuple[int, int]:
        """The arrival of a viewer's next request, never before that of the one before, and its time in the history."""
        last_arrived_ms, last_history_ms = self._last.pop((partition, viewer), (0, 0))
        arrived_ms = max(arrived_ms, last_arrived_ms)
        history_ms = max(arrived_ms, last_history_ms + 1)
        self._last[partition, viewer] = arrived_ms, history_ms
        if len(self._last) > MAX_VIEWERS:
            self._last.popitem(last=False)
        return arrived_ms, history_ms

    def waits_since(self, partition: Partition, arrived_ms: int, polled_ms: int) -> int:
        """The start of a request's wait by the clock of this machine.

        A message that is polled after the worker had reached the end of its partition arrived after that moment,
        also if the broker's clock shows an earlier time.

        Args:
            partition: of the message.
            arrived_ms: by the broker's clock.
            polled_ms: by the clock of this machine, as the result.

        """
        return min(max(arrived_ms, self._reached_ms.get(partition, 0)), polled_ms)

    def reached_end(self, partitions: Iterable[Partition], now_ms: int) -> None:
        """Note that a poll found no message.

        Args:
            partitions: those whose end the broker has reported. The first poll after such a report may be too early to
                have its messages, the second is not.
            now_ms: the present time.

        """
        reported = set(partitions)
        self._reached_ms.update(dict.fromkeys(reported & self._fetched, now_ms))
        self._fetched |= reported

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Drop the ends and the last arrivals of partitions that were revoked.

        Requests are read again if the partition returns. With the last arrival of a later request, their feeds would
        replace those that another worker has made of later requests meanwhile.
        """
        partitions = set(partitions)
        self._last = OrderedDict((place, last) for place, last in self._last.items() if place[0] not in partitions)
        for partition in partitions:
            self._fetched.discard(partition)
            self._reached_ms.pop(partition, None)
