"""The producer of a client, with the offsets of the messages that it has delivered."""

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from feed_worker.client.errors import Undelivered
from feed_worker.client.messages import OutgoingMessage
from infra.ports.kafka import producer_config
from infra.ports.settings import Settings
from thunder_ingest.events import Refused


class Outbox:
    """A producer that never waits, so that threads and event loops can each wait in their own way; any thread may call.

    librdkafka sends from threads of its own; `serve` only runs the callbacks of delivery reports.
    """

    def __init__(self, settings: Settings) -> None:
        self._kafka = settings.kafka
        self._producer = Producer(producer_config(settings) | {"on_delivery": self._on_delivery})
        self._delivered: dict[tuple[str, int], int] = {}
        self._refused: list[KafkaError] = []

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
        """Run the callbacks of delivery reports; wait at most `timeout_s` for the first report."""
        self._producer.poll(timeout_s)

    def hurry(self, timeout_s: float) -> None:
        """Send without linger, and wait at most `timeout_s` for all deliveries."""
        self._producer.flush(timeout_s)

    def delivered(self, timeout_s: float) -> dict[tuple[str, int], int]:
        """The offset after the last message delivered so far, by topic and partition.

        Raises:
            Undelivered: a message is not delivered though `timeout_s` have passed, or the broker refused it.

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
