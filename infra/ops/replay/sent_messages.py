"""The offsets of the messages that one replay has written, in a compact form."""

from bisect import bisect_right
from typing import Any

from infra.ports.kafka_admin import Offsets


class OffsetRuns:
    """A set of ascending offsets, kept as runs of consecutive ones."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, offset: int) -> None:
        """Add an offset above all others of the set."""
        if self._ends and self._ends[-1] == offset:
            self._ends[-1] = offset + 1
        else:
            self._starts.append(offset)
            self._ends.append(offset + 1)

    def __contains__(self, offset: int) -> bool:
        run = bisect_right(self._starts, offset) - 1
        return run >= 0 and offset < self._ends[run]

    def __len__(self) -> int:
        return sum(self._ends) - sum(self._starts)

    @property
    def end(self) -> int:
        """The offset after the last."""
        return self._ends[-1]


class SentMessages:
    """The offsets of all delivered messages of a producer; its `add` is the producer's `on_delivered`."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, int], OffsetRuns] = {}

    def add(self, _token: Any, topic: str, partition: int, offset: int) -> None:
        """Add a delivered message."""
        runs = self._runs.get((topic, partition))
        if runs is None:
            runs = self._runs[topic, partition] = OffsetRuns()
        runs.add(offset)

    def __len__(self) -> int:
        return sum(map(len, self._runs.values()))

    def __contains__(self, place: tuple[str, int, int]) -> bool:
        topic, partition, offset = place
        return offset in self._runs.get((topic, partition), ())

    @property
    def ends(self) -> Offsets:
        """For each topic and partition the offset after the last message."""
        return {part: runs.end for part, runs in self._runs.items()}
