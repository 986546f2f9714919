"""Requests that were taken from Kafka and wait for their turn: which are computed next, and together."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import msgspec

from feed_worker.serving.admission import Refusal
from thunder_ingest.events import FeedRequest, encode
from thunder_ingest.events.ids import published_form

Partition: TypeAlias = tuple[str, int]
"""A topic and the number of a partition."""


class MessageOffset(NamedTuple):
    """Where a message stands in Kafka."""

    part: Partition
    offset: int


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as it was taken from Kafka; it arrived there, by the broker's clock, at `arrived_ms`."""

    request: FeedRequest
    arrived_ms: int
    place: MessageOffset
    viewer: str = field(init=False)
    wish: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "viewer", published_form(self.request.user_id))
        object.__setattr__(self, "wish", _wish(self.request, self.viewer))


class MergedRequest(NamedTuple):
    """One computation: requests of one viewer that want the same, the newest of them first."""

    taken: Sequence[ReceivedRequest]

    @property
    def request(self) -> FeedRequest:
        """The request that is computed; its feed answers the others too."""
        return self.taken[0].request

    @property
    def viewer(self) -> str:
        """The viewer's id as it was published."""
        return self.taken[0].viewer

    @property
    def arrived_ms(self) -> int:
        """When the newest arrived: what it shares with older ones is not late for their sake."""
        return self.taken[0].arrived_ms

    @property
    def answers(self) -> list[str]:
        """The ids of all requests that are answered, that of the computed one first."""
        return [each.request.request_id for each in self.taken]


class RequestQueue:
    """The requests in hand, in the order of their arrival.

    A viewer has at most one computation under way. Posts that one feed shows count as served in the next, and they do
    so from the moment that the one is written: two wishes of one viewer are therefore computed one after the other,
    the older first, whatever else goes on meanwhile.
    """

    def __init__(self) -> None:
        self._taken: list[ReceivedRequest] = []

    def __len__(self) -> int:
        return len(self._taken)

    def add(self, taken: Sequence[ReceivedRequest]) -> None:
        """Take requests in hand."""
        self._taken += taken

    def forget(self, parts: Collection[Partition]) -> None:
        """Let go of the requests of partitions that another worker reads now."""
        self._taken = [each for each in self._taken if each.place.part not in parts]

    def take(
        self, limit: int, busy: Collection[str], refusal: Callable[[MergedRequest], Refusal | None]
    ) -> list[tuple[MergedRequest, Refusal | None]]:
        """Take out what comes next.

        Args:
            limit: computations at most; what is refused does not count.
            busy: viewers whose turn is not over.
            refusal: whether a computation is refused.

        Returns:
            at most one computation for each viewer, in the order of the viewers' arrival.

        """
        chosen: list[tuple[MergedRequest, Refusal | None]] = []
        free = limit
        for viewer, computations in merged(self._taken).items():
            if viewer in busy:
                continue
            refused = refusal(computations[0])
            if refused or free:
                free -= not refused
                chosen.append((computations[0], refused))
        gone = {each.place for asked, _ in chosen for each in asked.taken}
        self._taken = [each for each in self._taken if each.place not in gone]
        return chosen


def merged(taken: Sequence[ReceivedRequest]) -> dict[str, list[MergedRequest]]:
    """What has to be computed: requests of one viewer that want the same are answered by the newest's computation.

    Returns:
        computations by viewer: viewers in the order of their arrival, the computations of each in that of their time.

    """
    viewers: dict[str, dict[bytes, list[ReceivedRequest]]] = {}
    for each in taken:
        viewers.setdefault(each.viewer, {}).setdefault(each.wish, []).append(each)
    return {viewer: sorted(map(_asked, wishes.values()), key=_time) for viewer, wishes in viewers.items()}


def _asked(taken: Sequence[ReceivedRequest]) -> MergedRequest:
    return MergedRequest(sorted(taken, key=lambda each: each.request.at, reverse=True))


def _time(asked: MergedRequest) -> int:
    return asked.request.at


def _wish(request: FeedRequest, viewer: str) -> bytes:
    return encode(msgspec.structs.replace(request, request_id="-", user_id=viewer, at=1, deadline_ms=None))
