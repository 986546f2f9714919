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
from infra.ports.producer import Record, check_stop
from infra.ports.record_writer import RecordWriter
from infra.ports.settings import Settings
from thunder_ingest.events.dead_letters import substitute


class KafkaSink(DynamicSink[list[Record]]):
    """Writes records to their topics, and waits for their delivery after each batch."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> "_Writer":
        """Open a writer for a worker."""
        return _Writer(record_writer(self._settings))


class _Writer(StatelessSinkPartition[list[Record]]):
    """1. hand over every record; 2. wait for their delivery; 3. return, so that the epoch may close."""

    def __init__(self, writer: RecordWriter) -> None:
        self._writer = writer

    def write_batch(self, items: list[list[Record]]) -> None:
        if any(items):
            hand_over(self._writer, chain.from_iterable(items))
            wait_for_delivery(self._writer)


class EpochSink(FixedPartitionedSink[Any, None]):
    """Writes the records that a part makes of its items, and waits for their delivery once an epoch.

    A part is a share of the work: all items of one key come to one process of the cluster, wherever they were read.
    1. The part makes records of an item and hands them to the writer at once; the delivery may take milliseconds.
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
        self._writer: RecordWriter | None = None

    def list_parts(self) -> list[str]:
        """Return the names of the parts."""
        return list(self._parts)

    def part_fn(self, item_key: str) -> int:
        """Return the index of a part."""
        return self._parts.index(item_key)

    def build_part(self, _step_id: str, for_part: str, _resume_state: None) -> "_EpochWriter":
        """Open a part; all parts of a process share one writer."""
        self._writer = self._writer or record_writer(self._settings)
        return _EpochWriter(self._writer, self._records_of(for_part))


class _EpochWriter(StatefulSinkPartition[Any, None]):
    def __init__(self, writer: RecordWriter, records_of: Callable[[Any], list[Record]]) -> None:
        self._writer, self._records_of = writer, records_of

    def write_batch(self, values: list[Any]) -> None:
        hand_over(self._writer, chain.from_iterable(map(self._records_of, values)))

    def snapshot(self) -> None:
        wait_for_delivery(self._writer)


def record_writer(settings: Settings) -> RecordWriter:
    """Return a writer whose waits end with a stop signal."""
    return RecordWriter(settings, check_stop(stopping), substitute)


def hand_over(writer: RecordWriter, records: Iterable[Record]) -> None:
    """Hand records over; wait while the queue is full; end the process when it has to stop."""
    try:
        writer.publish(records)
    except StopRequested as error:
        exit_now(error)


def wait_for_delivery(writer: RecordWriter) -> None:
    """Wait until every record is delivered or set aside; end the process if Kafka refuses it."""
    try:
        writer.deliver()
    except (DeliveryFailed, StopRequested) as error:
        exit_now(error)
