"""Messages of an app on their way to Kafka, and what became of them."""

import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from infra.ports.errors import ForYouError
from infra.ports.kafka import producer_config
from infra.ports.settings import Settings
from thunder_ingest.events import Event, FeedRequest, Refused, decode_any, encode, key_of, topic_of
from thunder_ingest.events.ids import PublishedId, published_form


class Undelivered(ForYouError, RuntimeError):
    """The broker did not take every message."""


class Outgoing(NamedTuple):
    """A message to be published."""

    topic: str
    key: bytes | None
    value: bytes


def checked(events: Event | dict[str, Any] | Iterable[Event | dict[str, Any]]) -> Iterator[Outgoing]:
    """The messages of events, each for the topic of its type; raises `Refused` at the first that flows would refuse."""
    for event in [events] if isinstance(events, dict | msgspec.Struct) else events:
        valid = decode_any(msgspec.json.encode(event))
        yield Outgoing(topic_of(valid), published_form(key_of(valid)).encode(), encode(valid))


def feed_request(user: PublishedId, at: int | None, options: dict[str, Any]) -> FeedRequest:
    """A request under an id of its own, of now unless a time is given."""
    at = at or time.time_ns() // 1_000_000
    return FeedRequest(request_id=uuid.uuid4().hex, user_id=user, at=at, **options)


class Outbox:
    """A producer that never waits, so that threads and event loops can each wait in their own way.

    librdkafka sends from threads of its own; `serve` only hears what became of what was sent.
    """

    def __init__(self, settings: Settings) -> None:
        self._kafka = settings.kafka
        self._producer = Producer(producer_config(settings) | {"on_delivery": self._on_delivery})
        self._delivered: dict[tuple[str, int], int] = {}
        self._refused: list[KafkaError] = []

    @property
    def waiting(self) -> int:
        """How many messages Kafka has not taken, as far as is known."""
        self.serve()
        return len(self._producer)

    def offer(self, message: Outgoing) -> bool:
        """Hand a message over; False while the producer's queue is full.

        Raises:
            Refused: it is larger than any broker takes.
            Undelivered: the producer cannot take it, for example after a fatal error.

        """
        try:
            self._producer.produce(message.topic, key=message.key, value=message.value)
        except BufferError:
            return False
        except KafkaException as error:
            if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                raise Undelivered(f"Kafka at {self._kafka}: {error.args[0].str()}") from None
            raise Refused(error.args[0].str()) from None
        self.serve()
        return True

    def serve(self, timeout_s: float = 0.0) -> None:
        """Hear of deliveries, waiting for the first as long as that."""
        self._producer.poll(timeout_s)

    def hurry(self, timeout_s: float) -> None:
        """Send without lingering, and wait at most so long for all to be taken."""
        self._producer.flush(timeout_s)

    def delivered(self, timeout_s: float) -> dict[tuple[str, int], int]:
        """The offset after the last message delivered so far, by topic and partition.

        Raises:
            Undelivered: something is not there after `timeout_s`, which have passed, or was refused by the broker.

        """
        if self.waiting:
            raise Undelivered(f"{self.waiting} messages were not taken by Kafka at {self._kafka} in {timeout_s} s")
        refused, self._refused = self._refused, []  # each refusal is reported once: later messages are not affected
        if refused:
            reasons = "; ".join(sorted({error.str() for error in refused}))
            raise Undelivered(f"Kafka at {self._kafka} refused {len(refused)} messages: {reasons}")
        return dict(self._delivered)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused.append(error)
            return
        part = (message.topic() or "", message.partition() or 0)
        self._delivered[part] = max(self._delivered.get(part, 0), (message.offset() or 0) + 1)
