"""Kafka as a sink of a dataflow: an item is a list of records, and no epoch closes before its records are delivered.

Bytewax's own sink is not used: it has no delivery callback and ignores the result of `flush`, so it loses messages
silently; and it flushes after every item.
"""

from collections.abc import Iterable
from itertools import chain

from bytewax.outputs import DynamicSink, FixedPartitionedSink, StatefulSinkPartition, StatelessSinkPartition

from flows.process import exit_now, stopping
from flows.sources import parts_of
from infra.ports.errors import DeliveryFailed, StopRequested
from infra.ports.producer import KafkaProducer, Record, check_stop
from infra.ports.settings import Settings


class KafkaSink(DynamicSink[list[Record]]):
    """Writes records to their topics, and waits for their delivery after each batch."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> "_Writer":
        """Open a producer for a worker."""
        return _Writer(_producer(self._settings))


class _Writer(StatelessSinkPartition[list[Record]]):
    """1. hand over every record; 2. wait for their delivery; 3. return, so that the epoch may close."""

    def __init__(self, producer: KafkaProducer) -> None:
        self._producer = producer

    def write_batch(self, items: list[list[Record]]) -> None:
        if any(items):
            hand_over(self._producer, chain.from_iterable(items))
            wait_for_delivery(self._producer)


class EpochSink(FixedPartitionedSink[list[Record], None]):
    """Writes like `KafkaSink`, but waits once an epoch: the flow continues while its records are in flight.

    An item's key is the `part` of its batch. 1. The sink hands an item to the producer at once; its delivery may take
    milliseconds. 2. At the end of an epoch Bytewax requests a snapshot of each written part; it returns after the
    delivery of all records. 3. Bytewax commits the epoch, and with it the offsets of the sources.
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings, self._topic = settings, topic
        self._parts: list[str] = []
        self._producer: KafkaProducer | None = None

    def list_parts(self) -> list[str]:
        """Name the parts as the source of `topic` does, so that each worker writes the results of its own input."""
        self._parts = parts_of(self._settings, self._topic)
        return self._parts

    def part_fn(self, item_key: str) -> int:
        """Return the index of a part."""
        return self._parts.index(item_key)

    def build_part(self, _step_id: str, _for_part: str, _resume_state: None) -> "_EpochWriter":
        """Open a part; all parts of a process share one producer."""
        self._producer = self._producer or _producer(self._settings)
        return _EpochWriter(self._producer)


class _EpochWriter(StatefulSinkPartition[list[Record], None]):
    def __init__(self, producer: KafkaProducer) -> None:
        self._producer = producer

    def write_batch(self, values: list[list[Record]]) -> None:
        hand_over(self._producer, chain.from_iterable(values))

    def snapshot(self) -> None:
        wait_for_delivery(self._producer)


def _producer(settings: Settings) -> KafkaProducer:
    return KafkaProducer(settings, check=check_stop(stopping))


def hand_over(producer: KafkaProducer, records: Iterable[Record]) -> None:
    """Hand records over; wait while the queue is full; end the process when it has to stop."""
    try:
        producer.publish(records)
    except StopRequested as error:
        exit_now(error)


def wait_for_delivery(producer: KafkaProducer) -> None:
    """Wait until every record is delivered; end the process if one is refused."""
    try:
        producer.flush()
    except (DeliveryFailed, StopRequested) as error:
        exit_now(error)
