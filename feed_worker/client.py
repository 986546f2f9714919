"""The app's side: publish events, ask for a feed, wait for it.

with Client() as foryou:
foryou.publish({"type": "follow", "user_id": 1, "target_id": 2, "at": 1700000000000})
feed = foryou.wait(1, foryou.request_feed(1))
"""

import time
import uuid
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from feed_worker.feed import Explanation, Feed
from feed_worker.feed_store import FeedStore
from infra.kafka import partitions_of, producer_config
from infra.redis import connect, subscription
from infra.settings import Settings, load
from infra.topics import INPUTS
from thunder_ingest.events import LAST_TIME_MS, Event, FeedRequest, Refused, decode_any, encode, key_of, topic_of
from thunder_ingest.ids import PublishedId, published_form
from thunder_ingest.redis_form import ready_channel


class FeedTimeout(TimeoutError):
    """No answer to a feed request arrived in time."""


class Undelivered(RuntimeError):
    """The broker did not take every message."""


class Client:
    """Publishes to Kafka and reads from Redis; a context manager that delivers everything before it closes.

    Raises:
        infra.kafka.BrokerUnreachable, infra.kafka.TopicMissing, infra.redis.RedisUnreachable: when it is made, with
            the address and what to do.

    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or load()
        partitions_of(self._settings, INPUTS)
        self.redis = connect(self._settings)
        self._store = FeedStore(self.redis, self._settings.feed_ttl_s)
        self._producer = Producer(producer_config(self._settings) | {"on_delivery": self._on_delivery})
        self._delivered: dict[tuple[str, int], int] = {}
        self._refused: list[KafkaError] = []
        self._asked: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is None:
            self.flush()
        self.close()

    def publish(self, events: Event | dict[str, Any] | Iterable[Event | dict[str, Any]]) -> None:
        """Check events and hand them to Kafka, each to the topic of its type.

        Raises:
            thunder_ingest.events.Refused: for the first event that the flows would refuse; those before it are sent.

        """
        for event in [events] if isinstance(events, dict | msgspec.Struct) else events:
            checked = decode_any(msgspec.json.encode(event))
            self.publish_raw(topic_of(checked), published_form(key_of(checked)).encode(), encode(checked))

    def publish_raw(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Hand one message to Kafka as it is; waits while the producer's queue is full."""
        while True:
            try:
                self._producer.produce(topic, key=key, value=value)
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:  # larger than any broker takes
                raise Refused(error.args[0].str()) from None
            else:
                self._producer.poll(0)
                return

    def flush(self, timeout_s: float = 30.0) -> dict[tuple[str, int], int]:
        """Wait until Kafka has everything.

        Returns:
            for each topic and partition written to so far, the offset after the last message delivered.

        Raises:
            Undelivered: something is not there after `timeout_s`, or was refused by the broker.

        """
        if remaining := self._producer.flush(timeout_s):
            raise Undelivered(
                f"{remaining} messages were not taken by Kafka at {self._settings.kafka} in {timeout_s} s"
            )
        if self._refused:
            reasons = "; ".join(sorted({error.str() for error in self._refused}))
            raise Undelivered(f"Kafka at {self._settings.kafka} refused {len(self._refused)} messages: {reasons}")
        return dict(self._delivered)

    def request_feed(self, user: PublishedId, *, at: int | None = None, **options: Any) -> str:
        """Ask for a feed.

        Args:
            user: the viewer's id as published.
            at: the time of the request, epoch milliseconds; now, if not given.
            options: `size`, `surface`, `in_network_only`, `exclude_videos`, `seen_ids`, `explain`, `deadline_ms`.

        Returns:
            the request id, for `wait`.

        """
        at = at or time.time_ns() // 1_000_000
        request_id = uuid.uuid4().hex
        self.publish(FeedRequest(request_id=request_id, user_id=user, at=at, **options))
        self._asked[request_id] = at
        self._producer.flush(0.05)
        return request_id

    def wait(self, user: PublishedId, request_id: str, timeout_s: float = 10.0) -> Feed:
        """Wait for the answer to a request.

        Returns:
            the feed that answers it, or that of a later request where one has replaced it.

        Raises:
            FeedTimeout: saying what to look at.

        """
        form = published_form(user)
        deadline = time.monotonic() + timeout_s
        asked_at = self._asked.pop(request_id, LAST_TIME_MS)
        with subscription(self.redis) as announced:
            announced.subscribe(ready_channel(form))
            announced.get_message(timeout=timeout_s)  # the confirmation: from now on no announcement is missed
            while (left := deadline - time.monotonic()) > 0:
                feed = self._store.feed(form)
                if feed and (request_id in feed.answers or feed.at > asked_at):
                    return feed
                announced.get_message(timeout=min(left, 0.5))
        raise FeedTimeout(
            f"no answer to request {request_id} of user {form} within {timeout_s:g} s: is a worker running? "
            "`foryou doctor` tells"
        )

    def feed(self, user: PublishedId) -> Feed | None:
        """The newest feed of a user, if there is one."""
        return self._store.feed(published_form(user))

    def explain(self, user: PublishedId) -> Explanation | None:
        """The explanation of the last feed that was requested with `explain=True`, if there is one."""
        return self._store.explanation(published_form(user))

    def close(self) -> None:
        """Let go of the connections; `flush` first what must arrive."""
        self.redis.close()

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused.append(error)
            return
        part = (message.topic() or "", message.partition() or 0)
        self._delivered[part] = max(self._delivered.get(part, 0), (message.offset() or 0) + 1)
