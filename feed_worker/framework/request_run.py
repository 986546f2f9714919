"""One request on its way through the pipeline, and what becomes of it."""

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import SOURCES, Candidates
from feed_worker.candidates.query import Query
from thunder_ingest.events import FeedStatus
from thunder_ingest.posts.columns import zeros

NO_CANDIDATES: Final = Candidates.of(zeros(0), SOURCES[0])


class FunnelStep(NamedTuple):
    """How many candidates entered and left a component; for a source, how many there were before and after it."""

    stage: str
    name: str
    entered: int
    left: int


@dataclass(slots=True, kw_only=True)
class Result:
    """What became of a request.

    Attributes:
        candidates: what is shown, in order.
        dropped: which component dropped which candidates; kept only where the request asks for an explanation.
        timings_ms: per component; a component that works on the batch is counted whole for each of its requests.
        stages_ms: per stage, the wall time of the whole batch. It is less than its components' sum where they worked at
            the same time, and more than that where the batch has other requests.

    """

    query: Query
    candidates: Candidates
    status: FeedStatus
    funnel: list[FunnelStep]
    dropped: list[tuple[str, Candidates]]
    timings_ms: dict[str, float]
    stages_ms: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class RequestRun:
    """One request on its way.

    Attributes:
        failed: a required component failed.
        expired: the deadline passed; whichever comes first, this or `failed`, ends the request.
        source_failed: some source failed.

    """

    query: Query
    candidates: Candidates = NO_CANDIDATES
    failed: bool = False
    expired: bool = False
    source_failed: bool = False
    funnel: list[FunnelStep] = field(default_factory=list)
    dropped: list[tuple[str, Candidates]] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)
    stages_ms: dict[str, float] = field(default_factory=dict)
    _result: Result | None = None

    def goes_on(self) -> bool:
        """Whether there is anything left to do for the request, by now."""
        self.expired |= not self.failed and self.query.is_expired
        return not (self.failed or self.expired)

    def narrow(self, name: str, index: NDArray[Any]) -> None:
        """Keep the candidates under a mask, or at positions; remember the others where that was asked for."""
        narrowed = self.candidates.take(index)
        if self.query.request.explain and len(narrowed) < len(self.candidates):
            left_out = np.ones(len(self.candidates), np.bool_)
            left_out[index] = False
            self.dropped.append((name, self.candidates.take(left_out)))
        self.candidates = narrowed

    def result(self) -> Result:
        """The result: at most as many candidates as were asked for, and the status; the same however often asked."""
        if self._result is None:
            self._result = self._ended()
        return self._result

    def _ended(self) -> Result:
        if not self.goes_on():
            self.candidates = NO_CANDIDATES
        entered, size = len(self.candidates), self.query.size
        if entered > size:
            self.narrow("size", np.arange(size))
            self.funnel.append(FunnelStep("size", "size", entered, size))
        return Result(
            query=self.query,
            candidates=self.candidates,
            status=self._status(),
            funnel=self.funnel,
            dropped=self.dropped,
            timings_ms=self.timings_ms,
            stages_ms=self.stages_ms,
        )

    def _status(self) -> FeedStatus:
        if self.expired:
            return "expired"
        if self.failed or (self.source_failed and not len(self.candidates)):
            return "failed"  # not `empty`: nobody knows whether there was something to show
        if not len(self.candidates):
            return "empty"
        return "degraded" if self.query.degradations else "ok"
