"""Load generation: feed requests in an open or a closed loop, and the arrival times of the feeds."""

import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from feed_worker.client import Client
from feed_worker.documents.feed import Feed
from infra.ports.clock import now_ms
from infra.ports.redis import connect, subscription
from infra.ports.settings import Settings
from thunder_ingest.events import FeedRequest

TIMEOUT_S = 60.0
_FEED = msgspec.json.Decoder(Feed)


class Sent(NamedTuple):
    """A published request, with its viewer and the time of publication by `time.perf_counter`."""

    request_id: str
    viewer: int
    at: float


class Answered(NamedTuple):
    """An answered request, with the time at which its feed was read, and the stored document."""

    sent: Sent
    at: float
    document: bytes

    @property
    def latency_ms(self) -> float:
        """Time from the publication of the request to the end of the read."""
        return 1_000 * (self.at - self.sent.at)

    @property
    def feed(self) -> Feed:
        """The decoded document."""
        return _FEED.decode(self.document)


class Arrivals:
    """Reads each feed when its announcement arrives, in a thread of its own. A context manager."""

    def __init__(self, settings: Settings) -> None:
        self._redis = connect(settings)
        self._read: dict[str, tuple[float, bytes]] = {}
        self._pubsub = subscription(self._redis)
        self._pubsub.psubscribe("feed-ready:*")
        self._pubsub.get_message(timeout=10.0)  # wait for the confirmation, so that no announcement is lost
        self._stopping = threading.Event()
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Arrivals":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            message = self._pubsub.get_message(timeout=0.1)
            if message and message["type"] == "pmessage":
                user = message["channel"].removeprefix(b"feed-ready:")
                document: Any = self._redis.get(b"feed:" + user)
                read_at = time.perf_counter()
                with self._arrived:
                    self._read[message["data"].decode()] = read_at, document or b""
                    self._arrived.notify_all()

    def wait_for_any(self, sent: Sequence[Sent], timeout_s: float = TIMEOUT_S) -> list[Answered]:
        """Wait for the first answer, at most `timeout_s` seconds, and return all answers so far."""
        with self._arrived:
            self._arrived.wait_for(lambda: any(each.request_id in self._read for each in sent), timeout_s)
        return self.wait(sent, 0.0)

    def wait(self, sent: Sequence[Sent], timeout_s: float = TIMEOUT_S) -> list[Answered]:
        """Wait for all answers, at most `timeout_s` seconds, and return the answers so far."""
        with self._arrived:
            self._arrived.wait_for(lambda: all(each.request_id in self._read for each in sent), timeout_s)
        return [Answered(each, *self._read[each.request_id]) for each in sent if each.request_id in self._read]


def send(client: Client, viewer: int, **options: Any) -> Sent:
    """Publish a request."""
    request_id, at_ms = uuid.uuid4().hex, now_ms()
    sent = Sent(request_id, viewer, time.perf_counter())
    client.publish(FeedRequest(request_id=request_id, user_id=viewer, at=at_ms, **options))
    return sent


def open_loop(client: Client, viewers: Sequence[int], rate: float, seconds: float, **options: Any) -> list[Sent]:
    """Publish `rate` requests a second for the viewers in turn, without waiting for answers."""
    sent, begin = [], time.perf_counter()
    for number in range(max(1, int(rate * seconds))):
        time.sleep(max(0.0, begin + number / rate - time.perf_counter()))
        sent.append(send(client, viewers[number % len(viewers)], **options))
    return sent


def closed_loop(
    client: Client, arrivals: Arrivals, viewers: Sequence[int], outstanding: int, seconds: float
) -> list[Answered]:
    """Keep `outstanding` requests unanswered for a time, and return the answered requests."""
    begin, numbers, answered = time.perf_counter(), itertools.count(), list[Answered]()
    waiting: list[Sent] = []
    while time.perf_counter() - begin < seconds:
        waiting += [send(client, viewers[next(numbers) % len(viewers)]) for _ in range(outstanding - len(waiting))]
        arrived = arrivals.wait_for_any(waiting)
        answered += arrived
        done = {each.sent for each in arrived}
        waiting = [each for each in waiting if each not in done]
    arrivals.wait(waiting)
    return answered


def statuses(answered: Sequence[Answered]) -> dict[str, float]:
    """Count requests by status; `without_feed`: the stored document does not answer the request."""
    counted = Counter[str]()
    for each in answered:
        feed = each.feed if each.document else None
        counted[feed.status if feed and each.sent.request_id in feed.answers else "without_feed"] += 1
    return {status: float(count) for status, count in counted.items()}
