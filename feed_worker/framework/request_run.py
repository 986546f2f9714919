"""The state of one request within the pipeline, and its result."""

from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import SOURCES, Candidates
from feed_worker.candidates.query import Query
from thunder_ingest.events import FeedStatus
from thunder_ingest.posts.columns import zeros

NO_CANDIDATES: Final = Candidates.of(zeros(0), SOURCES[0])


class FunnelStep(NamedTuple):
    """The number of candidates that entered and left a component; for a source, the number before and after it."""

    stage: str
    name: str
    entered: int
    left: int


@dataclass(slots=True, kw_only=True)
class Result:
    """The result of a request.

    Attributes:
        query: with the degradations of all components.
        candidates: the items of the feed, in order.
        status: exactly one.
        funnel: the numbers of candidates, in the order of components.
        dropped: the removed candidates by component; kept only if the request wants an explanation.
        timings_ms: wall time by component; the call of a batched component counts in full for each request.
        stages_ms: wall time by stage, for the whole batch. Parallel components make it less than the sum of
            `timings_ms`, other requests of the batch make it more.

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
    """The state of one request. One thread at a time: the thread that runs the pipeline's step.

    Attributes:
        failed: True after a required component has failed. The first of `failed` and `expired` ends the request.
        expired: True after the deadline has passed.
        source_failed: True after any source has failed.

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

    def copy(self) -> "RequestRun":
        """A run in the same state, whose changes leave this one as it is."""
        return replace(
            self,
            funnel=[*self.funnel],
            dropped=[*self.dropped],
            timings_ms={**self.timings_ms},
            stages_ms={**self.stages_ms},
        )

    def is_open(self) -> bool:
        """True if the request has neither failed nor expired by now."""
        self.expired |= not self.failed and self.query.is_expired
        return not (self.failed or self.expired)

    def narrow(self, name: str, index: NDArray[Any]) -> None:
        """Keep the candidates under a mask or at positions; store the others if the request wants an explanation."""
        narrowed = self.candidates.take(index)
        if self.query.request.explain and len(narrowed) < len(self.candidates):
            left_out = np.ones(len(self.candidates), np.bool_)
            left_out[index] = False
            self.dropped.append((name, self.candidates.take(left_out)))
        self.candidates = narrowed

    def result(self) -> Result:
        """The result as of now, with at most `query.size` candidates; ends the run."""
        if not self.is_open():
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
            return "failed"  # not `empty`: the failed source might have found candidates
        if not len(self.candidates):
            return "empty"
        return "degraded" if self.query.degradations else "ok"
