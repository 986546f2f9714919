"""The queue of received requests: merges equal requests, and selects the next batch."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from feed_worker.serving.admission import Refusal
from feed_worker.serving.offsets import MessageOffset, Partition
from thunder_ingest.events import FeedRequest, encode
from thunder_ingest.events.ids import published_form


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request from Kafka.

    Attributes:
        request: the decoded message.
        arrived_ms: arrival at the broker, by the broker's clock.
        message: its place in Kafka.
        viewer: the viewer's id in its published form.
        merge_key: equal for requests that one feed can answer: all fields but the request's id, time and deadline.

    """

    request: FeedRequest
    arrived_ms: int
    message: MessageOffset
    viewer: str = field(init=False)
    merge_key: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "viewer", published_form(self.request.user_id))
        object.__setattr__(self, "merge_key", _merge_key(self.request, self.viewer))


class MergedRequest(NamedTuple):
    """Equal requests of one viewer, newest first: one computation answers all of them."""

    received: Sequence[ReceivedRequest]

    @property
    def request(self) -> FeedRequest:
        """The newest request, which is computed."""
        return self.received[0].request

    @property
    def viewer(self) -> str:
        """The viewer's id in its published form."""
        return self.received[0].viewer

    @property
    def arrived_ms(self) -> int:
        """The arrival of the newest request: older ones in the group do not make it late."""
        return self.received[0].arrived_ms

    @property
    def request_ids(self) -> list[str]:
        """The ids of all requests that are answered, newest first."""
        return [each.request.request_id for each in self.received]


class RequestQueue:
    """The received requests, in the order of their arrival. For the intake thread alone.

    A viewer has at most one computation in progress. Posts of one feed count as served in the next, from the moment
    that the first feed is written. So two different requests of one viewer are computed one after the other, the older
    first.
    """

    def __init__(self) -> None:
        self._received: list[ReceivedRequest] = []

    def __len__(self) -> int:
        return len(self._received)

    def add(self, received: Sequence[ReceivedRequest]) -> None:
        """Append requests."""
        self._received += received

    def forget(self, partitions: Collection[Partition]) -> None:
        """Drop the requests of partitions that were revoked."""
        self._received = [each for each in self._received if each.message.partition not in partitions]

    def take(
        self, limit: int, busy: Collection[str], refusal: Callable[[MergedRequest], Refusal | None]
    ) -> list[tuple[MergedRequest, Refusal | None]]:
        """Remove and return the next batch.

        Args:
            limit: the maximum number of computations; refused requests do not count.
            busy: viewers with a computation in progress; their requests stay in the queue.
            refusal: decides on load shedding for each computation.

        Returns:
            at most one computation a viewer, in the order of the viewers' arrival.

        """
        chosen: list[tuple[MergedRequest, Refusal | None]] = []
        free = limit
        for viewer, computations in merge(self._received).items():
            if viewer in busy:
                continue
            refused = refusal(computations[0])
            if refused or free:
                free -= not refused
                chosen.append((computations[0], refused))
        taken = {each.message for merged, _ in chosen for each in merged.received}
        self._received = [each for each in self._received if each.message not in taken]
        return chosen


def merge(received: Sequence[ReceivedRequest]) -> dict[str, list[MergedRequest]]:
    """Group equal requests of each viewer.

    Returns:
        the groups by viewer: viewers in the order of their arrival, the groups of each by the time of the newest
        request.

    """
    viewers: dict[str, dict[bytes, list[ReceivedRequest]]] = {}
    for each in received:
        viewers.setdefault(each.viewer, {}).setdefault(each.merge_key, []).append(each)
    return {viewer: sorted(map(_newest_first, groups.values()), key=_time) for viewer, groups in viewers.items()}


def _newest_first(received: Sequence[ReceivedRequest]) -> MergedRequest:
    return MergedRequest(sorted(received, key=lambda each: each.request.at, reverse=True))


def _time(merged: MergedRequest) -> int:
    return merged.request.at


def _merge_key(request: FeedRequest, viewer: str) -> bytes:
    return encode(msgspec.structs.replace(request, request_id="-", user_id=viewer, at=1, deadline_ms=None))
