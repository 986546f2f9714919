"""The query: the pipeline's input for one feed request, with its viewer's state."""

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
"""The minimum number of candidates of a source at any quality: enough for a feed after the filters."""

AMPLE: Final = 300
"""So many candidates leave enough new posts for a feed, after the filters of a request that restricts nothing."""

NO_IDS: NDArray[np.int64] = np.zeros(0, np.int64)


@dataclass(slots=True, kw_only=True)
class Query:
    """One request; query hydrators set `user`, `seen` and `served`.

    Attributes:
        request: as it was published.
        user_id: the viewer.
        user_form: the viewer's id in its published form, as in keys and documents.
        now_ms: the time for all rules about age; constant for one request.
        arrived_ms: the arrival of the request, which orders a viewer's feeds; by default the request's own time.
        offset: of the request in its partition; it orders requests that arrived together.
        history_ms: the time of the feed in the viewer's history; by default the arrival.
        deadline_at: the time after which the request is answered `expired`, without further work.
        size: the maximum number of posts in the feed.
        parameters: weights, factors and limits of this feed.
        experiments: the viewer's variant, by experiment.
        quality: the admission control's quality factor, at most 1 (see `scaled_limit`).
        model_version: of the ranker that `parameters` selects.
        monotonic: a monotonic clock in seconds; measures the work on the query against the deadline.
        made_at_s: the time of its making by `monotonic`, which is before the viewer's state is read.
        user: the viewer's state; None until it is hydrated.
        is_stand_in: True if the history is that of a stand-in, whose actions say nothing about the viewer's rates.
        seen: sorted unique ids of posts that the viewer has seen, with those in the request's list.
        served: sorted unique ids of posts that were recently served to the viewer, or on an earlier page.
        paged: those of an earlier page, which no page repeats.
        first_page_ms: the time under which the first page was served; that of this feed if it is no page, 0 if unknown.
        found: the number of candidates from the sources so far; a later source may skip its work if they suffice.
        degradations: optional components that failed or lacked data; listed in the feed.

    """

    request: FeedRequest
    user_id: int
    user_form: str
    now_ms: int
    deadline_at: int
    size: int
    parameters: Parameters
    experiments: dict[str, str] = field(default_factory=dict)
    arrived_ms: int = 0
    offset: int = 0
    history_ms: int = 0
    quality: float = 1.0
    model_version: str = ""
    monotonic: Callable[[], float] = time.monotonic
    user: UserState | None = None
    is_stand_in: bool = False
    seen: NDArray[np.int64] = field(default_factory=lambda: NO_IDS)
    served: NDArray[np.int64] = field(default_factory=lambda: NO_IDS)
    paged: NDArray[np.int64] = field(default_factory=lambda: NO_IDS)
    first_page_ms: int = 0
    found: int = 0
    degradations: list[str] = field(default_factory=list)
    made_at_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.made_at_s = self.monotonic()
        self.arrived_ms = self.arrived_ms or self.request.at
        self.history_ms = self.history_ms or self.arrived_ms
        self.first_page_ms = 0 if self.request.after is not None else self.history_ms

    @property
    def viewer(self) -> UserState:
        """The viewer's state.

        Raises:
            LookupError: it has not been hydrated; an empty state would ignore the viewer's blocks.

        """
        if self.user is None:
            raise LookupError("the viewer's state has not been read")
        return self.user

    @property
    def is_expired(self) -> bool:
        """True if the deadline has passed by now."""
        worked_on_ms = 1000 * (self.monotonic() - self.made_at_s)
        return self.now_ms + worked_on_ms > self.deadline_at

    @property
    def has_history(self) -> bool:
        """True if the viewer has at least one position of history, so that taste can be predicted."""
        return self.user is not None and len(self.user.positions) > 0

    @property
    def needs_stand_in(self) -> bool:
        """True for a viewer without history who follows accounts, if the feed's parameters have a stand-in."""
        return not self.has_history and self.parameters.stand_in_posts > 0 and len(self.viewer.following) > 0

    @property
    def is_check(self) -> bool:
        """True if the request asks which of its posts still stand: safety rules alone apply, and no trace is left."""
        return self.request.check_ids is not None

    @property
    def known_ids(self) -> NDArray[np.int64]:
        """The sorted unique ids of seen and recently served posts, which sources skip."""
        return union(self.seen, self.served)

    def may_repeat(self, found: int) -> bool:
        """True if posts that were served or seen may come back, since `found` new candidates may leave too few.

        Those of a request that restricts languages or videos always may, since the filters may drop all of them. A page
        whose first page is unknown repeats nothing: its reader has the pages before on the screen.
        """
        request = self.request
        restricts = request.exclude_videos or request.langs
        allowed = self.parameters.repeat_below > 0 and self.first_page_ms > 0 and not self.is_check
        return allowed and (bool(restricts) or found < AMPLE)

    @property
    def is_unrestricted(self) -> bool:
        """True if an empty feed means that nothing may be shown: not even a repeat, on any page, of any kind."""
        request = self.request
        restricts = request.in_network_only or request.exclude_videos or request.langs or request.after is not None
        return self.parameters.repeat_below > 0 and not restricts

    def scaled_limit(self, count: int) -> int:
        """The number of candidates to fetch: `count` times `quality`, at least MIN_CANDIDATES, at most `count`."""
        return min(count, max(MIN_CANDIDATES, round(count * self.quality)))

    def requested_seen_ids(self) -> NDArray[np.int64]:
        """The ids of the request's `seen_ids`."""
        return np.array([id64(published) for published in self.request.seen_ids or ()], np.int64)
