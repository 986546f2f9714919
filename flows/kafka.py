"""Bytewax's way into and out of Kafka.

Bytewax's own connectors are not used: its sink loses messages silently (no delivery callback, the result of `flush` is
unused) and flushes every item, its source hands over single items and tells no consumer group how far a flow has come.
Here an item of a dataflow is a whole batch, a sink returns when its batch is delivered, and a source commits, for
those who watch the lag, the offsets of epochs that have been finished. What a flow resumes from is Bytewax's recovery
store, never the group.
"""

import gc
import logging
import signal
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, FixedPartitionedSink, StatefulSinkPartition, StatelessSinkPartition
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from infra.ports import logs
from infra.ports.kafka import (
    DeliveryFailed,
    Publisher,
    Record,
    consumer_config,
    exit_now,
    group,
    wait_for_topics,
)
from infra.ports.outage import outage
from infra.ports.settings import Settings, SettingsError, load

log = logging.getLogger(__name__)

BATCH_MESSAGES = 5_000  # at most: a flow that keeps up gets what has come since it last looked
IDLE = timedelta(milliseconds=5)
EPOCH = timedelta(seconds=1)  # what flows are run with, `-s 1`: with another interval ends of epochs are not aligned
TICK_S = 1.0
GC_THRESHOLD = 1_000_000  # objects: several batches

stopping = threading.Event()
"""Set on SIGTERM and SIGINT: sources end, the last epoch is finished and snapshotted, the process exits 0."""


class Batch(NamedTuple):
    """Consecutive messages of one partition; empty about once a second while nothing comes, so that time passes."""

    topic: str
    partition: int
    messages: Sequence[Message]

    @property
    def part(self) -> str:
        """What the recovery store calls the partition."""
        return f"{self.topic}-{self.partition}"


class EpochEnds:
    """When the partitions of this process last ended an epoch, so that they come to do it together.

    A partition that has ended its epoch is read no further until all have, and Bytewax asks without a pause whether
    they have. Each counts its interval from its own last end: a distance that two inputs once have, they keep. Whoever
    is ahead of the last one is therefore left asleep, once, for as long as it is ahead.
    """

    def __init__(self) -> None:
        self._epoch, self._last = 0, datetime.min.replace(tzinfo=UTC)

    def note(self, epoch: int, now: datetime) -> None:
        """A partition has ended its epoch of this number: nobody can be further than one epoch ahead."""
        if epoch >= self._epoch:
            self._epoch, self._last = epoch, now

    def asleep_until(self, epoch: int, ended: datetime, awake: datetime) -> datetime | None:
        """How long a partition should sleep that is to be awake next at a time; None: not longer than that.

        Args:
            epoch: the last one that it ended.
            ended: when it did.
            awake: when it would be awake, and perhaps end the next one.

        """
        if epoch != self._epoch or self._last - ended <= IDLE:  # the last one, or one that others wait for
            return None
        together = self._last + EPOCH
        return together if ended + EPOCH - IDLE <= awake < together else None


_ends = EpochEnds()


def _parts(settings: Settings, topic: str) -> list[str]:
    """The partitions of a topic by name, in the order that Bytewax numbers them in; waits while the broker is away."""
    partitions = wait_for_topics(settings, [topic], stopping)[topic]
    return sorted(Batch(topic, partition, ()).part for partition in partitions)


class KafkaSource(FixedPartitionedSource[Batch, int]):
    """The messages of a topic, a batch an item, its partitions spread over the workers; resumes at exact offsets."""

    def __init__(self, settings: Settings, topic: str, flow: str, batch_messages: int = BATCH_MESSAGES) -> None:
        self._settings, self._topic, self._flow, self._batch_messages = settings, topic, flow, batch_messages

    def list_parts(self) -> list[str]:
        """Name the partitions of the topic: keys of the recovery store."""
        return _parts(self._settings, self._topic)

    def build_part(self, _step_id: str, for_part: str, resume_state: int | None) -> "_Partition":
        """Start to read a partition at the offset that the recovery store gives, else at its beginning."""
        topic, _, partition = for_part.rpartition("-")
        part = TopicPartition(topic, int(partition))
        return _Partition(self._settings, self._flow, part, resume_state, self._batch_messages)


class _Partition(StatefulSourcePartition[Batch, int]):
    def __init__(
        self, settings: Settings, flow: str, part: TopicPartition, next_offset: int | None, batch_messages: int
    ) -> None:
        self._outage = outage("Kafka", settings.kafka)
        self._consumer = Consumer(consumer_config(settings, group(settings, flow)))
        self._topic, self._partition = part.topic, part.partition
        self._next = next_offset
        self._batch_messages = batch_messages
        self._finished = next_offset or 0  # committed at once, so that a flow that waits for messages is seen
        start = OFFSET_BEGINNING if next_offset is None else next_offset
        self._consumer.assign([TopicPartition(part.topic, part.partition, start)])
        self._ticked = 0.0
        self._idle = False
        self._epoch, self._ended = 0, datetime.now(UTC)

    def next_batch(self) -> list[Batch]:
        if stopping.is_set():
            raise StopIteration
        messages = self._consumer.consume(self._batch_messages, 0.001)
        if any(message.error() is not None for message in messages):
            messages = [message for message in messages if self._usable(message)]
        self._idle = not messages
        if messages:
            self._outage.ends()
            self._next = (messages[-1].offset() or 0) + 1
        elif time.monotonic() - self._ticked < TICK_S:
            return []
        self._ticked = time.monotonic()
        return [Batch(self._topic, self._partition, messages)]

    def next_awake(self) -> datetime | None:
        soon = datetime.now(UTC) + IDLE
        return _ends.asleep_until(self._epoch, self._ended, soon) or (soon if self._idle else None)

    def snapshot(self) -> int | None:  # type: ignore[override]  # None: nothing was read yet
        self._epoch, self._ended = self._epoch + 1, datetime.now(UTC)
        _ends.note(self._epoch, self._ended)
        # Bytewax closes an epoch before it snapshots the next one, so what the last snapshot covered is written
        self._commit(self._finished)
        self._finished = self._next or 0
        return self._next

    def close(self) -> None:
        self._consumer.close()

    def _usable(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):
            log.warning("%s-%d: %s", self._topic, self._partition, error.str())
        elif not error.retriable():
            raise KafkaException(error)
        return False

    def _commit(self, offset: int) -> None:
        self._consumer.commit(
            offsets=[TopicPartition(self._topic, self._partition, offset)],
            asynchronous=True,
        )


class KafkaSink(DynamicSink[list[Record]]):
    """Writes records to the topics that they name; an item is a list of them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> "_Writer":
        """Open a producer for a worker."""
        return _Writer(Publisher(self._settings))


class _Writer(StatelessSinkPartition[list[Record]]):
    """1. hand over every record; 2. wait for their delivery; 3. return, so that the epoch may close."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def write_batch(self, items: list[list[Record]]) -> None:
        if any(items):
            _hand_over(self._publisher, items)
            _wait_for_delivery(self._publisher)


def _hand_over(publisher: Publisher, items: list[list[Record]]) -> None:
    try:
        for records in items:
            publisher.publish(records, stopping.is_set)
    except DeliveryFailed as error:
        exit_now(error)


def _wait_for_delivery(publisher: Publisher) -> None:
    try:
        publisher.flush(stopping.is_set)
    except DeliveryFailed as error:
        exit_now(error)


class EpochSink(FixedPartitionedSink[list[Record], None]):
    """Writes like `KafkaSink`, but waits once an epoch: a flow works on while its records are on their way.

    An item's key is the `part` of the batch that it was made of. 1. An item is handed over when it comes, and may be
    delivered milliseconds later. 2. At the end of an epoch Bytewax asks for a snapshot of each part that was written:
    it returns when all is delivered. 3. Bytewax commits the epoch, and with it the offsets of the sources.
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings, self._topic = settings, topic
        self._parts: list[str] = []
        self._publisher: Publisher | None = None

    def list_parts(self) -> list[str]:
        """Name the parts as the source of `topic` does, so that each worker writes what it has read."""
        self._parts = _parts(self._settings, self._topic)
        return self._parts

    def part_fn(self, item_key: str) -> int:
        """Tell a part's place among all."""
        return self._parts.index(item_key)

    def build_part(self, _step_id: str, _for_part: str, _resume_state: None) -> "_EpochWriter":
        """Write by the one producer of this process."""
        self._publisher = self._publisher or Publisher(self._settings)
        return _EpochWriter(self._publisher)


class _EpochWriter(StatefulSinkPartition[list[Record], None]):
    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def write_batch(self, values: list[list[Record]]) -> None:
        _hand_over(self._publisher, values)

    def snapshot(self) -> None:
        _wait_for_delivery(self._publisher)


def collect_garbage_seldom() -> None:
    """Leave batches alone: they hold no cycles and are soon gone, and to walk them took a fifth of a flow's time."""
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def start(topics: Sequence[str]) -> Settings:
    """Begin a flow's process: logging, signals, settings, and its topics, waited for while no broker answers.

    Returns:
        the settings; a mistake in them, or a missing topic, ends the process with one line.

    """
    collect_garbage_seldom()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
    try:
        settings = load()
        logs.configure(settings.log_format)
        wait_for_topics(settings, topics, stopping)
    except (SettingsError, LookupError) as error:
        raise SystemExit(str(error)) from None
    return settings
