"""The query: one feed request on its way through the pipeline, with what is known about its viewer."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.id_sets import union
from feed_worker.parameters import Parameters
from thunder_ingest.events import FeedRequest
from thunder_ingest.events.ids import id64
from thunder_ingest.users.state import UserState

MIN_CANDIDATES: Final = 50
"""Candidates of a kind that remain however low the quality: enough for a feed, after filters."""

NO_IDS: NDArray[np.int64] = np.zeros(0, np.int64)


@dataclass(slots=True, kw_only=True)
class Query:
    """One request; query hydrators fill in what stands below the required fields.

    Attributes:
        request: as it was published.
        user_id: the viewer.
        user_form: the viewer's id as it was published, the form that keys and documents have.
        now_ms: the time that every rule about age goes by; it stands still while the request is worked on.
        deadline_at: later than this the request is answered `expired`, without further work.
        size: posts wanted at most.
        parameters: what ranks this feed.
        experiments: the variant that the viewer is in, by experiment.
        quality: 1, or less where the worker has too much to do and asks for fewer candidates (see `scaled_limit`).
        model_version: of the ranker that the parameters name.
        monotonic: seconds that pass; the deadline is measured by them from when the query was made.
        user: the viewer's state; None until it is hydrated.
        seen: sorted unique post ids that the viewer has seen, the request's own list included.
        served: sorted unique post ids served to the viewer a moment ago.
        found: candidates from the sources asked so far; a later source may stand back where there are enough.
        degradations: optional components that failed or had nothing to work with; the feed quotes these.

    """

    request: FeedRequest
    user_id: int
    user_form: str
    now_ms: int
    deadline_at: int
    size: int
    parameters: Parameters
    experiments: dict[str, str] = field(default_factory=dict)
    quality: float = 1.0
    model_version: str = ""
    monotonic: Callable[[], float] = time.monotonic
    user: UserState | None = None
    seen: NDArray[np.int64] = field(default_factory=lambda: NO_IDS)
    served: NDArray[np.int64] = field(default_factory=lambda: NO_IDS)
    found: int = 0
    degradations: list[str] = field(default_factory=list)
    _made_at_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._made_at_s = self.monotonic()

    @property
    def viewer(self) -> UserState:
        """The viewer's state.

        Raises:
            LookupError: it has not been hydrated; no component may then act as if nobody were blocked.

        """
        if self.user is None:
            raise LookupError("the viewer's state has not been read")
        return self.user

    @property
    def is_expired(self) -> bool:
        """Whether an answer would come too late, by now."""
        worked_on_ms = 1000 * (self.monotonic() - self._made_at_s)
        return self.now_ms + worked_on_ms > self.deadline_at

    @property
    def has_history(self) -> bool:
        """Whether the viewer has done anything that taste could be read from."""
        return self.user is not None and len(self.user.positions) > 0

    @property
    def known_ids(self) -> NDArray[np.int64]:
        """Sorted unique ids of posts that need not be fetched: the viewer has seen them or was just served them."""
        return union(self.seen, self.served)

    def scaled_limit(self, count: int) -> int:
        """The number of candidates to fetch: `count` times `quality`, at least MIN_CANDIDATES, at most `count`."""
        return min(count, max(MIN_CANDIDATES, round(count * self.quality)))

    def requested_seen_ids(self) -> NDArray[np.int64]:
        """The ids that the app says are seen."""
        return np.array([id64(published) for published in self.request.seen_ids or ()], np.int64)
