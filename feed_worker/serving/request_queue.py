"""The queue of received requests: merges equal requests, bounds each viewer's share, and selects the next batch."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec
import xxhash

from feed_worker.serving.admission import Refusal
from feed_worker.serving.offsets import MessageOffset, Partition
from thunder_ingest.events import FeedRequest, encode
from thunder_ingest.events.ids import published_form

MAX_COMPUTATIONS: Final = 8
"""The different requests of one viewer that wait; they are computed one after the other."""

MAX_REQUESTS: Final = 1_024
"""The requests of one viewer that wait, equal ones included."""

MAX_MERGED: Final = 256
"""The requests that one feed answers: their ids are part of its document."""


_TOO_MANY: Final = Refusal(
    "failed",
    f"too many requests of this viewer wait: at most {MAX_COMPUTATIONS} different ones, and {MAX_REQUESTS} in all",
)


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request from Kafka.

    Attributes:
        request: the decoded message.
        arrived_ms: the arrival at the broker by the broker's clock, never before that of the viewer's request before.
        history_ms: the arrival, but later than that of the viewer's request before: no feed repeats the one before.
        waits_since_ms: the arrival by the clock of this machine, for waits.
        message: its place in Kafka.
        bytes: the size of the message.
        viewer: the viewer's id in its published form.
        merge_key: equal for requests that one feed can answer: all fields but the request's id, time and deadline.

    """

    request: FeedRequest
    arrived_ms: int
    history_ms: int
    waits_since_ms: int
    message: MessageOffset
    bytes: int = 0
    viewer: str = field(init=False)
    merge_key: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "viewer", published_form(self.request.user_id))
        object.__setattr__(self, "merge_key", _merge_key(self.request, self.viewer))

    @property
    def order(self) -> tuple[int, int]:
        """The order of a viewer's requests for any worker: messages that came together share their arrival."""
        return self.arrived_ms, self.message.offset


class MergedRequest(NamedTuple):
    """Requests of one viewer, newest first: one computation, or one refusal, answers all of them.

    A request whose own deadline has passed is refused without the others. A request that has only waited for too long
    is answered with a newer one.
    """

    received: Sequence[ReceivedRequest]

    @property
    def newest(self) -> ReceivedRequest:
        """The newest request, which is computed."""
        return self.received[0]

    @property
    def request(self) -> FeedRequest:
        """The request that is computed."""
        return self.newest.request

    @property
    def viewer(self) -> str:
        """The viewer's id in its published form."""
        return self.newest.viewer

    @property
    def request_ids(self) -> list[str]:
        """The ids of all requests that are answered, newest first."""
        return [each.request.request_id for each in self.received]


Chosen = tuple[MergedRequest, Refusal | None]
"""A computation, or the refusal of one."""


class RequestQueue:
    """The received requests. For the intake thread alone.

    A viewer has at most one computation in progress. Posts of one feed count as served in the next, from the moment
    that the first feed is written. So two different requests of one viewer are computed one after the other, in the
    order of their arrival. A viewer's share of the queue is bounded: requests beyond it are refused at once, as are
    requests that have waited too long. Thus one viewer delays no other.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._viewers: dict[str, dict[int, list[ReceivedRequest]]] = {}
        self._refused: dict[tuple[str, Refusal], list[ReceivedRequest]] = {}
        self._sizes: dict[str, int] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return sum(self._sizes.values()) + sum(map(len, self._refused.values()))

    @property
    def computations(self) -> int:
        """The number of different requests that wait."""
        return sum(map(len, self._viewers.values()))

    def add(self, received: Sequence[ReceivedRequest]) -> None:
        """Append requests, in the order of their arrival."""
        for each in received:
            groups = self._viewers.setdefault(each.viewer, {})
            is_new = each.merge_key not in groups
            if (is_new and len(groups) >= MAX_COMPUTATIONS) or self._sizes.get(each.viewer, 0) >= MAX_REQUESTS:
                self.refuse(each, _TOO_MANY)
            else:
                groups.setdefault(each.merge_key, []).append(each)
                self._sizes[each.viewer] = self._sizes.get(each.viewer, 0) + 1
                self.bytes += each.bytes

    def refuse(self, received: ReceivedRequest, refusal: Refusal) -> None:
        """Append a request that the next batch refuses."""
        self._refused.setdefault((received.viewer, refusal), []).append(received)
        self.bytes += received.bytes

    def forget(self, partitions: Collection[Partition]) -> None:
        """Drop the requests of partitions that were revoked."""
        if not partitions:
            return
        queued = [each for groups in self._viewers.values() for group in groups.values() for each in group]
        refused = self._refused
        self._clear()
        self.add([each for each in queued if each.message.partition not in partitions])
        for (_, refusal), received in refused.items():
            for each in received:
                if each.message.partition not in partitions:
                    self.refuse(each, refusal)

    def take(
        self, limit: int, busy: Collection[str], refusal: Callable[[ReceivedRequest], Refusal | None]
    ) -> list[Chosen]:
        """Remove and return the next batch.

        Args:
            limit: the maximum number of computations; refused requests do not count.
            busy: viewers with a computation in progress; only refusals are taken of their requests.
            refusal: decides on load shedding for each request.

        Returns:
            at most one computation a viewer, those that have waited longest for their turn first, and all refusals.

        """
        chosen = self._take_refused()
        free = limit
        for viewer in list(self._viewers):
            waiting: list[MergedRequest] = []
            for merged in self._merged(viewer):
                admitted, refused = _split(merged, refusal)
                chosen += [(self._remove(some), reason) for some, reason in refused]
                if admitted is not None:
                    waiting.append(admitted)
            if waiting and viewer not in busy and free:
                free -= 1
                chosen.append((self._remove(waiting[0]), None))
                if viewer in self._viewers:  # other viewers are next
                    self._viewers[viewer] = self._viewers.pop(viewer)
        return chosen

    def _take_refused(self) -> list[Chosen]:
        """The refused requests, those of a viewer with one reason together."""
        chosen: list[Chosen] = []
        for (_, refusal), received in self._refused.items():
            starts = range(0, len(received), MAX_MERGED)
            chosen += [(MergedRequest(received[start : start + MAX_MERGED][::-1]), refusal) for start in starts]
            self.bytes -= sum(each.bytes for each in received)
        self._refused = {}
        return chosen

    def _merged(self, viewer: str) -> list[MergedRequest]:
        """The next computation of each group of equal requests, by the arrival of its newest request."""
        groups = (MergedRequest(group[:MAX_MERGED][::-1]) for group in self._viewers[viewer].values())
        return sorted(groups, key=lambda merged: merged.newest.order)

    def _remove(self, merged: MergedRequest) -> MergedRequest:
        viewer, key = merged.viewer, merged.newest.merge_key
        groups, removed = self._viewers[viewer], set(map(id, merged.received))
        groups[key] = [each for each in groups[key] if id(each) not in removed]
        if not groups[key]:
            del groups[key]
        if not groups:
            del self._viewers[viewer]
        self._sizes[viewer] -= len(merged.received)
        if not self._sizes[viewer]:
            del self._sizes[viewer]
        self.bytes -= sum(each.bytes for each in merged.received)
        return merged


def _split(
    merged: MergedRequest, refusal: Callable[[ReceivedRequest], Refusal | None]
) -> tuple[MergedRequest | None, list[tuple[MergedRequest, Refusal]]]:
    """The requests that are computed together, and those that are refused, with the reason of the newest one."""
    decided = [(each, refusal(each)) for each in merged.received]
    is_computed = any(refused is None for _, refused in decided)
    admitted = list[ReceivedRequest]()
    refusals = dict[str, tuple[list[ReceivedRequest], Refusal]]()
    for each, refused in decided:
        if refused is None or (is_computed and refused.status != "expired"):
            admitted.append(each)
        else:
            refusals.setdefault(refused.status, ([], refused))[0].append(each)
    return MergedRequest(admitted) if admitted else None, [
        (MergedRequest(received), refused) for received, refused in refusals.values()
    ]


def _merge_key(request: FeedRequest, viewer: str) -> int:
    same = msgspec.structs.replace(request, request_id="-", user_id=viewer, at=1, deadline_ms=None)
    return xxhash.xxh3_128_intdigest(encode(same))
