"""The Kafka offsets of messages in progress, and the offsets that may be committed."""

import threading
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

Partition: TypeAlias = tuple[str, int]
"""A topic and the number of a partition."""


class MessageOffset(NamedTuple):
    """The place of one message in Kafka."""

    partition: Partition
    offset: int


class Offsets:
    """The messages of each partition that were received and are not done. Any thread may call.

    Messages may be done in any order. The offset to commit stays below the first message that is not done, so that a
    crash loses none: the next owner of the partition reads from there.
    """

    def __init__(self) -> None:
        self._open: dict[Partition, deque[int]] = {}
        self._done: dict[Partition, set[int]] = {}
        self._lock = threading.Lock()

    def received(self, messages: Iterable[MessageOffset]) -> None:
        """Add messages, in the order of each partition."""
        with self._lock:
            for partition, offset in messages:
                self._open.setdefault(partition, deque()).append(offset)

    def done(self, messages: Iterable[MessageOffset]) -> dict[Partition, int]:
        """Mark messages as done.

        Returns:
            the offset to commit of each partition that advances: that of the first message that is not done, or the
            one after the last.

        """
        with self._lock:
            for partition, offset in messages:
                self._done.setdefault(partition, set()).add(offset)
            return {partition: next_ for partition in list(self._done) if (next_ := self._advance(partition))}

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Drop the messages of partitions that were revoked."""
        with self._lock:
            for partition in partitions:
                self._open.pop(partition, None)
                self._done.pop(partition, None)

    def first_open(self, partition: Partition) -> int | None:
        """The offset of the first message that is not done; None if there is none."""
        with self._lock:
            waiting = self._open.get(partition)
            return waiting[0] if waiting else None

    def _advance(self, partition: Partition) -> int:
        """The offset to commit; 0 if the first message is not done."""
        waiting, done = self._open.get(partition, deque()), self._done[partition]
        next_ = 0
        while waiting and waiting[0] in done:
            next_ = waiting.popleft() + 1
            done.remove(next_ - 1)
        if not waiting:
            del self._done[partition]  # the rest was received before a rebalance; this worker may not commit it
        return next_
