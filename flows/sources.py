"""Kafka as a source of a dataflow: an item is a batch of messages of one partition.

Bytewax's own source is not used: it emits single messages and commits no offsets of a consumer group. This one commits
the offsets of finished epochs, so that tools can watch the lag. A flow resumes from Bytewax's recovery store, never
from the group.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from flows.process import note_life, stopping
from infra.ports.clock import now_ms
from infra.ports.consumer import MessageCheck, check_commit, wait_for_topics
from infra.ports.kafka_config import alive_group, consumer_config, group
from infra.ports.process_metrics import FLOW_LAG
from infra.ports.settings import Settings

BATCH_MESSAGES: Final = 5_000
"""Largest batch; without lag a batch has the messages since the last poll."""
IDLE: Final = timedelta(milliseconds=30)
EPOCH: Final = timedelta(seconds=1)
"""The epoch interval of the flows, `-s 1`; EpochEnds aligns only this interval."""
TICK_S: Final = 1.0


class Batch(NamedTuple):
    """Consecutive messages of one partition; an idle one emits an empty batch each TICK_S, which triggers expiry."""

    topic: str
    partition: int
    messages: Sequence[Message]
    before: int = 0
    """The offset to read next before this batch; 0 at the beginning of the log. Messages may begin later: logs have
    gaps."""

    @property
    def after(self) -> int:
        """The offset to read next after this batch."""
        return (self.messages[-1].offset() or 0) + 1 if self.messages else self.before

    @property
    def part(self) -> str:
        """The partition's key in the recovery store."""
        return f"{self.topic}-{self.partition}"


class EpochEnds:
    """Aligns the ends of epochs of the partitions of this process.

    A partition that has ended its epoch waits for all others, and Bytewax polls it without a pause during that wait.
    Each partition counts its interval from its own last end, so the offset between two inputs would never shrink. A
    partition that is ahead of the last one therefore sleeps once, for as long as it is ahead.
    """

    def __init__(self) -> None:
        self._epoch, self._last = 0, datetime.min.replace(tzinfo=UTC)

    def note(self, epoch: int, now: datetime) -> None:
        """Record the end of an epoch of a partition; no partition can be more than one epoch ahead."""
        if epoch >= self._epoch:
            self._epoch, self._last = epoch, now

    def asleep_until(self, epoch: int, ended: datetime, awake: datetime) -> datetime | None:
        """Return the time until which a partition sleeps for the alignment; None: no longer than otherwise.

        Args:
            epoch: the last epoch that the partition ended.
            ended: the time of that end.
            awake: the next time at which the partition is awake, and may end the next epoch.

        """
        if epoch != self._epoch or self._last - ended <= IDLE:  # the last partition, on which the others wait
            return None
        aligned = self._last + EPOCH
        return aligned if ended + EPOCH - IDLE <= awake < aligned else None


_ends = EpochEnds()


_alive: Final[dict[str, Consumer]] = {}
"""The one consumer of this process for each flow that commits its sign of life."""


def parts_of(settings: Settings, topic: str) -> list[str]:
    """Return the names of a topic's partitions in Bytewax's order; wait while no broker answers."""
    partitions = wait_for_topics(settings, [topic], stopping)[topic]
    return sorted(Batch(topic, partition, ()).part for partition in partitions)


class KafkaSource(FixedPartitionedSource[Batch, int]):
    """The messages of a topic in batches, its partitions spread over the workers; resumes at exact offsets."""

    def __init__(self, settings: Settings, topic: str, flow: str, batch_messages: int = BATCH_MESSAGES) -> None:
        self._settings, self._topic, self._flow, self._batch_messages = settings, topic, flow, batch_messages

    def list_parts(self) -> list[str]:
        """Name the partitions of the topic: the keys of the recovery store."""
        return parts_of(self._settings, self._topic)

    def build_part(self, _step_id: str, for_part: str, resume_state: int | None) -> "_Partition":
        """Read a partition from the offset of the recovery store, else from its beginning."""
        topic, _, partition = for_part.rpartition("-")
        part = TopicPartition(topic, int(partition))
        return _Partition(self._settings, self._flow, part, resume_state, self._batch_messages)


class _Partition(StatefulSourcePartition[Batch, int]):
    def __init__(
        self, settings: Settings, flow: str, part: TopicPartition, next_offset: int | None, batch_messages: int
    ) -> None:
        # a jump of offsets must not pass in silence: with "error" the consumer reports it
        options = {"auto.offset.reset": "error", "on_commit": check_commit(settings)}
        self._consumer = Consumer(consumer_config(settings, group(settings, flow)) | options)
        self._check = MessageCheck(settings, self._consumer, keeps_unreadable=True)
        self._settings, self._flow = settings, flow
        self._topic, self._partition = part.topic, part.partition
        self._next = next_offset
        self._batch_messages = batch_messages
        self._finished = next_offset or 0  # committed with the first snapshot, so that an idle flow has a group too
        start = OFFSET_BEGINNING if next_offset is None else next_offset
        self._consumer.assign([TopicPartition(part.topic, part.partition, start)])
        self._ticked = 0.0
        self._idle = False
        self._epoch, self._ended = 0, datetime.now(UTC)

    def next_batch(self) -> list[Batch]:
        if stopping.is_set():
            raise StopIteration
        messages = self._check.usable(self._consumer.consume(self._batch_messages, 0.001))
        self._idle = not messages
        if not messages and time.monotonic() - self._ticked < TICK_S:
            return []
        batch = Batch(self._topic, self._partition, messages, self._next or 0)
        if messages:
            self._next = batch.after
        self._ticked = time.monotonic()
        return [batch]

    def next_awake(self) -> datetime | None:
        soon = datetime.now(UTC) + IDLE
        return _ends.asleep_until(self._epoch, self._ended, soon) or (soon if self._idle else None)

    def snapshot(self) -> int | None:  # type: ignore[override]  # None: nothing was read yet
        self._epoch, self._ended = self._epoch + 1, datetime.now(UTC)
        _ends.note(self._epoch, self._ended)
        # Bytewax closes an epoch before it snapshots the next one, so all output up to the last snapshot is written
        self._commit(self._finished)
        self._finished = self._next or 0
        self._measure_lag()
        note_life()
        return self._next

    def close(self) -> None:
        self._consumer.close()

    def _commit(self, offset: int) -> None:
        self._consumer.commit(offsets=[TopicPartition(self._topic, self._partition, offset)], asynchronous=True)
        if self._flow not in _alive:
            _alive[self._flow] = Consumer(consumer_config(self._settings, alive_group(self._settings, self._flow)))
        _alive[self._flow].poll(0)  # runs its callbacks
        alive = [TopicPartition(self._topic, self._partition, now_ms())]
        _alive[self._flow].commit(offsets=alive, asynchronous=True)

    def _measure_lag(self) -> None:
        _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, self._partition), cached=True)
        if end >= 0:
            FLOW_LAG.set(f"{self._topic}-{self._partition}", max(0, end - (self._next or 0)))
