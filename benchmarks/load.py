"""Feed requests at a fixed rate whatever the system does, and when each feed could be read."""

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


class Asked(NamedTuple):
    """A request on its way: whose, and when it was published, by `time.perf_counter`."""

    request_id: str
    viewer: int
    at: float


class Answered(NamedTuple):
    """A request whose answer was announced: when its feed had been read, and what stood there then."""

    asked: Asked
    at: float
    document: bytes

    @property
    def latency_ms(self) -> float:
        """From publishing the request to having read the feed."""
        return 1_000 * (self.at - self.asked.at)

    @property
    def feed(self) -> Feed:
        """The document, read."""
        return _FEED.decode(self.document)


class Arrivals:
    """Reads each feed as soon as it is announced, in a thread; a context manager."""

    def __init__(self, settings: Settings) -> None:
        self._redis = connect(settings)
        self._read: dict[str, tuple[float, bytes]] = {}
        self._pubsub = subscription(self._redis)
        self._pubsub.psubscribe("feed-ready:*")
        self._pubsub.get_message(timeout=10.0)  # the confirmation: from now on no announcement is missed
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

    def wait_for_any(self, asked: Sequence[Asked], timeout_s: float = TIMEOUT_S) -> list[Answered]:
        """What was answered of some requests, once any was, or after so long."""
        with self._arrived:
            self._arrived.wait_for(lambda: any(each.request_id in self._read for each in asked), timeout_s)
        return self.wait(asked, 0.0)

    def wait(self, asked: Sequence[Asked], timeout_s: float = TIMEOUT_S) -> list[Answered]:
        """What was answered of some requests, once all were, or after so long."""
        with self._arrived:
            self._arrived.wait_for(lambda: all(each.request_id in self._read for each in asked), timeout_s)
        return [Answered(each, *self._read[each.request_id]) for each in asked if each.request_id in self._read]


def ask(client: Client, viewer: int, **options: Any) -> Asked:
    """Publish a request."""
    request_id, at_ms = uuid.uuid4().hex, now_ms()
    asked = Asked(request_id, viewer, time.perf_counter())
    client.publish(FeedRequest(request_id=request_id, user_id=viewer, at=at_ms, **options))
    return asked


def at_rate(client: Client, viewers: Sequence[int], rate: float, seconds: float, **options: Any) -> list[Asked]:
    """Requests of one viewer after another, `rate` a second."""
    asked, begin = [], time.perf_counter()
    for number in range(max(1, int(rate * seconds))):
        time.sleep(max(0.0, begin + number / rate - time.perf_counter()))
        asked.append(ask(client, viewers[number % len(viewers)], **options))
    return asked


def at_most(
    client: Client, arrivals: Arrivals, viewers: Sequence[int], outstanding: int, seconds: float
) -> list[Answered]:
    """What was answered within a time in which always so many requests were on their way."""
    begin, numbers, answered = time.perf_counter(), itertools.count(), list[Answered]()
    waiting: list[Asked] = []
    while time.perf_counter() - begin < seconds:
        waiting += [ask(client, viewers[next(numbers) % len(viewers)]) for _ in range(outstanding - len(waiting))]
        arrived = arrivals.wait_for_any(waiting)
        answered += arrived
        done = {each.asked for each in arrived}
        waiting = [each for each in waiting if each not in done]
    arrivals.wait(waiting)
    return answered


def statuses(answered: Sequence[Answered]) -> dict[str, float]:
    """How many requests ended in which status; `without_feed`: what then stood in Redis does not answer them."""
    counted = Counter[str]()
    for each in answered:
        feed = each.feed if each.document else None
        counted[feed.status if feed and each.asked.request_id in feed.answers else "without_feed"] += 1
    return {status: float(count) for status, count in counted.items()}
