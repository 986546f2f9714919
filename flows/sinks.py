"""Kafka as a sink of a dataflow: no epoch closes before its records are delivered.

Bytewax's own sink is not used: it has no delivery callback and ignores the result of `flush`, so it loses messages
silently; and it flushes after every item.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from bytewax.outputs import DynamicSink, FixedPartitionedSink, StatefulSinkPartition, StatelessSinkPartition

from flows.process import exit_now, stopping
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


class EpochSink(FixedPartitionedSink[Any, None]):
    """Writes the records that a part makes of its items, and waits for their delivery once an epoch.

    A part is a share of the work: all items of one key come to one process of the cluster, wherever they were read.
    1. The part makes records of an item and hands them to the producer at once; the delivery may take milliseconds.
    2. At the end of an epoch Bytewax requests a snapshot of each written part; it returns after the delivery of all
    records. 3. Bytewax commits the epoch, and with it the offsets of the sources.

    Args:
        settings: the address of Kafka.
        parts: their names, the same in all processes; an item's key is the name of its part.
        records_of: makes the function of a part that turns an item into records.

    """

    def __init__(
        self, settings: Settings, parts: Sequence[str], records_of: Callable[[str], Callable[[Any], list[Record]]]
    ) -> None:
        self._settings, self._parts, self._records_of = settings, parts, records_of
        self._producer: KafkaProducer | None = None

    def list_parts(self) -> list[str]:
        """Return the names of the parts."""
        return list(self._parts)

    def part_fn(self, item_key: str) -> int:
        """Return the index of a part."""
        return self._parts.index(item_key)

    def build_part(self, _step_id: str, for_part: str, _resume_state: None) -> "_EpochWriter":
        """Open a part; all parts of a process share one producer."""
        self._producer = self._producer or _producer(self._settings)
        return _EpochWriter(self._producer, self._records_of(for_part))


class _EpochWriter(StatefulSinkPartition[Any, None]):
    def __init__(self, producer: KafkaProducer, records_of: Callable[[Any], list[Record]]) -> None:
        self._producer, self._records_of = producer, records_of

    def write_batch(self, values: list[Any]) -> None:
        hand_over(self._producer, chain.from_iterable(map(self._records_of, values)))

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
