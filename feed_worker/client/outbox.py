"""The producer of a client, with the offsets of the messages that it has delivered."""

import threading

from feed_worker.client.errors import Undelivered
from feed_worker.client.messages import OutgoingMessage
from infra.ports.errors import DeliveryFailed, MessageTooLarge
from infra.ports.producer import KafkaProducer, Record
from infra.ports.settings import Settings
from thunder_ingest.events import Refused


class Outbox:
    """A producer that never waits, so that threads and event loops can each wait in their own way; any thread may call.

    librdkafka sends from threads of its own; `serve` only runs the callbacks of delivery reports.
    """

    def __init__(self, settings: Settings) -> None:
        self._kafka = settings.kafka
        self._producer = KafkaProducer(settings, on_delivered=self._on_delivered)
        self._delivered: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """The number of messages without a delivery report."""
        self.serve()
        return len(self._producer)

    @property
    def hint(self) -> str:
        """The likely reason of a missing answer."""
        return f"Kafka at {self._kafka} has not taken it yet" if self.waiting else "is a worker running?"

    def offer(self, message: OutgoingMessage) -> bool:
        """Hand a message over; False while the producer's queue is full.

        Raises:
            Refused: it is larger than any broker takes.
            Undelivered: the producer cannot take it, for example after a fatal error.

        """
        try:
            is_taken = self._producer.offer(Record(*message))
        except MessageTooLarge as error:
            raise Refused(str(error)) from None
        except DeliveryFailed as error:
            raise Undelivered(f"Kafka at {self._kafka}: {error}") from None
        if is_taken:
            self.serve()
        return is_taken

    def serve(self, timeout_s: float = 0.0) -> None:
        """Run the callbacks of delivery reports; wait at most `timeout_s` for the first report."""
        self._producer.poll(timeout_s)

    def hurry(self, timeout_s: float) -> None:
        """Send without linger, and wait at most `timeout_s` for all deliveries."""
        self._producer.wait(timeout_s)

    def delivered(self, timeout_s: float) -> dict[tuple[str, int], int]:
        """The offset after the last message delivered so far, by topic and partition.

        Raises:
            Undelivered: a message is not delivered though `timeout_s` have passed, or the broker refused it.

        """
        if self.waiting:
            raise Undelivered(f"{self.waiting} messages were not taken by Kafka at {self._kafka} in {timeout_s} s")
        refused = self._producer.take_refusals()  # each refusal is reported once: later messages are not affected
        if refused:
            reasons = "; ".join(sorted({refusal.reason for refusal in refused}))
            raise Undelivered(f"Kafka at {self._kafka} refused {len(refused)} messages: {reasons}")
        with self._lock:
            return dict(self._delivered)

    def _on_delivered(self, _token: None, topic: str, partition: int, offset: int) -> None:
        part = (topic, partition)
        with self._lock:  # reports run in each thread that polls
            self._delivered[part] = max(self._delivered.get(part, 0), offset + 1)
