"""Running figures of stages and components, for whoever watches them from another thread."""

import math
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Final

BUCKETS_MS: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0)
"""Upper bounds, inclusive: from a filter's microseconds to the ranker's seconds, two or three times as long each."""


@dataclass(slots=True)
class ComponentStatistics:
    """Running figures of one component, or of one stage as a whole, over all requests.

    Attributes:
        stage: the stage that the component is in.
        calls: how often it was called; batches, where it works on those.
        entered: candidates before it. Stages count none.
        left: candidates after it; for a source, those before it included.
        errors_by_kind: failed requests, by the name of what was raised; `OverBudget` stands for what was given up.
        over_budget: calls that took longer than their budget, whether they were given up or not.
        total_ms: wall time of all calls.
        max_ms: of the longest.
        histogram: how many calls took as long as each of BUCKETS_MS at most, and longer than the one before; then those
            longer than all.

    """

    stage: str
    calls: int = 0
    entered: int = 0
    left: int = 0
    errors_by_kind: dict[str, int] = field(default_factory=dict)
    over_budget: int = 0
    total_ms: float = 0.0
    max_ms: float = 0.0
    histogram: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_MS) + 1))

    @property
    def errors(self) -> int:
        """Failed requests."""
        return sum(self.errors_by_kind.values())

    @property
    def removed(self) -> int:
        """Candidates that it took out; sources add."""
        return max(self.entered - self.left, 0)

    @property
    def added(self) -> int:
        """Candidates that it found."""
        return max(self.left - self.entered, 0)

    @property
    def cumulative(self) -> list[tuple[float, int]]:
        """The histogram as Prometheus has it: upper bounds in seconds, the last infinite, and calls up to each."""
        bounds_s = [bound / 1000 for bound in BUCKETS_MS] + [math.inf]
        return list(zip(bounds_s, accumulate(self.histogram), strict=True))


class Statistics(Mapping[str, ComponentStatistics]):
    """Running figures by name; whoever looks one up, from whatever thread, gets a copy as of now.

    Args:
        stages: of what there is to count, by name. Two components of one name are counted together.

    """

    def __init__(self, stages: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._by_name = {name: ComponentStatistics(stage) for name, stage in stages.items()}

    def __getitem__(self, name: str) -> ComponentStatistics:
        with self._lock:
            stats = self._by_name[name]
            return replace(stats, errors_by_kind=dict(stats.errors_by_kind), histogram=list(stats.histogram))

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def note(
        self, name: str, elapsed_ms: float, is_over: bool, entered: Sequence[int] = (), left: Sequence[int] = ()
    ) -> None:
        """Count a call, and the candidates of each of its requests."""
        with self._lock:
            stats = self._by_name[name]
            stats.calls += 1
            stats.entered += sum(entered)
            stats.left += sum(left)
            stats.over_budget += is_over
            stats.total_ms += elapsed_ms
            stats.max_ms = max(stats.max_ms, elapsed_ms)
            stats.histogram[bisect_left(BUCKETS_MS, elapsed_ms)] += 1

    def note_error(self, name: str, error: Exception) -> bool:
        """Count an error; whether it is the first of its kind."""
        with self._lock:
            errors, kind = self._by_name[name].errors_by_kind, type(error).__name__
            errors[kind] = errors.get(kind, 0) + 1
            return errors[kind] == 1
