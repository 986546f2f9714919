"""The Kafka producer: it reports every message that was not delivered."""

import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, cast

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from msgspec import Struct

from infra.ports.errors import DeliveryFailed, MessageTooLarge, StopRequested
from infra.ports.kafka_config import producer_config
from infra.ports.outage import outage
from infra.ports.settings import Settings

STALLED_S: Final = 5.0
"""Time without a delivery after which an outage is reported."""
_WAIT_S: Final = 0.2
_FULL_WAIT_S: Final = 0.02
"""Short, since a delivered message sends no report that would end the wait for a slot in the queue."""

Headers: TypeAlias = list[tuple[str, bytes]]
OnDelivered: TypeAlias = Callable[[Any, str, int, int], None]
"""Receives the token of `send`, and the topic, the partition and the offset of a delivered message."""


class Record(Struct, frozen=True, gc=False):
    """A message to be written. A struct is made in a third of the time of a named tuple; flows make one an event."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers | None = None


class Refusal(NamedTuple):
    """A record that Kafka or its client refused for good; `token` is the argument of `send`."""

    record: Record
    error: KafkaError
    token: Any = None

    @property
    def topic(self) -> str:
        """The topic of the record."""
        return self.record.topic

    @property
    def reason(self) -> str:
        """The text of the error."""
        return str(self.error.str())

    def __str__(self) -> str:
        return f"{self.topic}: {self.reason}"


def check_stop(stopping: threading.Event) -> Callable[[], None]:
    """Return a `check` that raises `StopRequested` once `stopping` is set."""

    def check() -> None:
        if stopping.is_set():
            raise StopRequested("stopped with undelivered messages; they will be written again")

    return check


class KafkaProducer:
    """Writes records to Kafka. Any thread may call; callbacks run in `poll`, `wait`, `flush` and in a full `send`.

    If the queue is full, `send` and `publish` wait; `offer` returns False. During an outage only waits with a timeout
    end; the outage is logged once, after STALLED_S without a delivery. A refused message is added to `refusals`, and
    `flush` raises.

    Args:
        settings: address and further options of Kafka.
        check: called several times a second during a wait; may raise to end it.
        on_delivered: called for each delivered message. Without it a success costs no callback, which saves a quarter
            of the throughput.
        options: further librdkafka options.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        check: Callable[[], None] = lambda: None,
        on_delivered: OnDelivered | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self._check, self._on_delivered = check, on_delivered
        self._outage = outage(
            "Kafka (writes)", settings.kafka, trouble="accepts no records", recovery="accepts records again"
        )
        self.refusals: list[Refusal] = []
        reports = {"on_delivery": partial(self._on_report, None), "delivery.report.only.error": on_delivered is None}
        self._producer = Producer(producer_config(settings) | reports | (options or {}))

    def __len__(self) -> int:
        """The number of messages without a report, and of reports whose callback has not run."""
        return len(self._producer)

    def publish(self, records: Iterable[Record]) -> None:
        """Hand records over; wait while the queue is full."""
        produce = self._producer.produce
        for record in records:
            try:
                if record.headers:
                    produce(record.topic, record.value, record.key, headers=[*record.headers])
                else:  # an empty list of headers would cost more than the rest of the call
                    produce(record.topic, record.value, record.key)
            except (BufferError, KafkaException):
                self.send(record)

    def send(self, record: Record, token: Any = None) -> None:
        """Hand one record over; wait while the queue is full."""
        since = time.monotonic()
        try:
            while not self._offered(record, token):
                self._producer.poll(_FULL_WAIT_S)
                self._waited(since)
        except KafkaException as error:
            self.refusals.append(Refusal(record, error.args[0], token))

    def offer(self, record: Record, token: Any = None) -> bool:
        """Hand one record over; do not wait.

        Returns:
            False if the queue is full.

        Raises:
            MessageTooLarge: the message is larger than any broker accepts.
            DeliveryFailed: the client cannot accept any message, for example after a fatal error.

        """
        try:
            return self._offered(record, token)
        except KafkaException as error:
            kind = MessageTooLarge if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE else DeliveryFailed
            raise kind(error.args[0].str()) from None

    def take_refusals(self) -> list[Refusal]:
        """Return the refusals since the last call, and clear them."""
        refusals = self.refusals[:]
        del self.refusals[: len(refusals)]  # another thread may append meanwhile
        return refusals

    def poll(self, timeout_s: float = 0.0) -> None:
        """Run the callbacks of reports; wait for the first report at most `timeout_s`."""
        self._producer.poll(timeout_s)

    def wait(self, timeout_s: float) -> int:
        """Send without linger and wait at most `timeout_s`; return the number of messages without a report."""
        waiting: int = self._producer.flush(timeout_s)
        return waiting

    def drain(self) -> None:
        """Wait without limit until every message is delivered or refused."""
        since, left = time.monotonic(), len(self)
        while waiting := self.wait(_WAIT_S):
            if waiting < left:
                since, left = time.monotonic(), waiting
            self._waited(since)
        self._outage.ends()

    def flush(self) -> None:
        """Wait without limit until every message is delivered.

        Raises:
            DeliveryFailed: a message was refused, now or earlier.

        """
        self.drain()
        if self.refusals:
            raise DeliveryFailed("; ".join(sorted({str(refusal) for refusal in self.refusals})))

    def _offered(self, record: Record, token: Any) -> bool:
        extra: dict[str, Any] = {"headers": [*record.headers]} if record.headers else {}
        if token is not None:
            extra["on_delivery"] = partial(self._on_report, token)
        try:
            self._producer.produce(record.topic, record.value, record.key, **extra)
        except BufferError:
            return False
        return True

    def _waited(self, since: float) -> None:
        self._check()
        if time.monotonic() - since > STALLED_S:
            self._outage.begins(f"{len(self)} messages wait")

    def _on_report(self, token: Any, error: KafkaError | None, message: Message) -> None:
        topic = message.topic() or ""
        if error is not None:
            record = Record(topic, _raw(message.key()), _raw(message.value()), cast(Headers | None, message.headers()))
            self.refusals.append(Refusal(record, error, token))
        elif self._on_delivered is not None:
            self._on_delivered(token, topic, message.partition() or 0, message.offset() or 0)


def _raw(text: str | bytes | None) -> bytes | None:
    return text.encode() if isinstance(text, str) else text
