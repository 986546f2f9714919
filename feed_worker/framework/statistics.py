"""Statistics of stages and components: counters and histograms that any thread may read."""

import math
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Final

BUCKETS_MS: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0)
"""Inclusive upper bounds, from a filter's microseconds to the ranker's seconds, each about three times the last."""


@dataclass(slots=True)
class ComponentStatistics:
    """The statistics of one component, or of one stage as a whole, over all requests.

    Attributes:
        stage: the component's stage.
        calls: the number of calls; of a batched component, batches.
        entered: candidates before it; 0 for a stage.
        left: candidates after it, for a source with those before it; 0 for a stage.
        errors_by_kind: failed requests by the name of the exception; `OverBudget` for calls that were given up.
        over_budget: calls longer than their budget, given up or not.
        total_ms: the sum of the wall times of all calls.
        max_ms: the longest wall time.
        histogram: the number of calls in each bucket of BUCKETS_MS, then of those above the last bound.

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
        """Candidates that it removed; 0 for a source."""
        return max(self.entered - self.left, 0)

    @property
    def added(self) -> int:
        """Candidates that it added; 0 for all but sources."""
        return max(self.left - self.entered, 0)

    @property
    def cumulative(self) -> list[tuple[float, int]]:
        """The histogram in the form of Prometheus: upper bounds in seconds, the last infinite, and calls up to each."""
        bounds_s = [bound / 1000 for bound in BUCKETS_MS] + [math.inf]
        return list(zip(bounds_s, accumulate(self.histogram), strict=True))


class Statistics(Mapping[str, ComponentStatistics]):
    """Statistics by name. Any thread may call; a lookup returns a copy.

    Args:
        stages: the stage of each component, by name. Two components of one name are counted together.

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

    def record_call(
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

    def record_error(self, name: str, error: Exception) -> bool:
        """Count an error; True if it is the first of its kind."""
        with self._lock:
            errors, kind = self._by_name[name].errors_by_kind, type(error).__name__
            errors[kind] = errors.get(kind, 0) + 1
            return errors[kind] == 1
