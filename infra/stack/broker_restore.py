"""The restore of the embedded broker: topics, records and group offsets from its log, at equal offsets."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from confluent_kafka import ConsumerGroupTopicPartitions, Message, Producer, TopicPartition

# documented there, though its stubs do not export it
from confluent_kafka.admin import AdminClient, NewTopic

from infra.ports.errors import ForYouError
from infra.stack.broker_log import BrokerLog, Entry, Record, TopicCreated

Part: TypeAlias = tuple[str, int]
GroupOffsets: TypeAlias = dict[str, list[tuple[str, int, int]]]
"""The committed offsets of each consumer group: topic, partition, offset."""

TIMEOUT_S: Final = 30.0
"""Time limit of a request to the broker, and of the last part of its log without a further record."""


class RestoreError(ForYouError, RuntimeError):
    """The broker took a record of the log at another offset, or refused it."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text}; start again, choose another directory with --data, or start without data with --fresh"
        )


def restore(
    log: BrokerLog, address: str, groups: GroupOffsets, check: Callable[[], None], *, is_whole: bool
) -> dict[Part, int]:
    """Fill an empty broker from the log and restore the committed offsets.

    Args:
        log: at its beginning.
        address: of the broker.
        groups: the committed offsets.
        check: called during waits; raises once the broker has ended.
        is_whole: see `BrokerLog.read`.

    Returns:
        for each partition the offset after its last record.

    Raises:
        LogDamaged: a frame of the log is damaged.
        RestoreError: an offset would not be the same as before.

    """
    restored = _Restore(address, check)
    for entries in log.read(is_whole=is_whole):
        restored.take(entries)
    restored.flush()
    restored.commit(groups)
    return restored.ends


def client_config(address: str) -> dict[str, Any]:
    """The options of each client of the embedded broker."""
    return {"bootstrap.servers": address, "log_level": 2, "reconnect.backoff.max.ms": 200}


def create(admin: AdminClient, topics: list[TopicCreated]) -> None:
    """Create topics as they are described; raises KafkaException."""
    wanted = [NewTopic(each.topic, num_partitions=each.partitions, config=each.config) for each in topics]
    for future in admin.create_topics(wanted, request_timeout=TIMEOUT_S).values() if wanted else ():
        future.result()


class _Restore:
    def __init__(self, address: str, check: Callable[[], None]) -> None:
        self._check_broker = check
        self._admin = AdminClient(client_config(address))
        options = {"linger.ms": 5, "compression.type": "lz4", "batch.size": 1_000_000, "batch.num.messages": 10_000}
        # no second try: it could change the order
        limits = {"retries": 0, "message.max.bytes": 100_000_000, "queue.buffering.max.kbytes": 65_536}
        self._producer = Producer(client_config(address) | options | limits)
        self._error = ""
        self.ends: dict[Part, int] = {}

    def take(self, entries: list[Entry]) -> None:
        last = {(entry.topic, entry.partition): entry for entry in entries if isinstance(entry, Record)}
        for entry in entries:
            if isinstance(entry, Record):
                part = entry.topic, entry.partition
                for offset in range(self.ends[part], entry.offset):  # such as the markers of transactions
                    self._produce(Record(*part, offset, entry.timestamp_ms, None, None))
                if entry.offset >= self.ends[part]:
                    self._produce(entry, is_checked=entry is last[part])
            else:
                create(self._admin, [entry])
                self.ends |= {(entry.topic, part): 0 for part in range(entry.partitions)}
        if self._error:
            raise RestoreError(self._error)

    def _produce(self, record: Record, *, is_checked: bool = False) -> None:
        options: dict[str, Any] = {"headers": record.headers} if record.headers else {}
        if is_checked:  # the order is kept, so that the last one stands for all; a callback for each is slow
            options["on_delivery"] = lambda error, message: self._check(record, error, message)
        while True:
            try:
                self._producer.produce(
                    record.topic, record.value, record.key, record.partition, timestamp=record.timestamp_ms, **options
                )
                break
            except BufferError:
                self._check_broker()
                self._producer.poll(0.1)
        self.ends[record.topic, record.partition] = record.offset + 1

    def _check(self, record: Record, error: object, message: Message) -> None:
        where = f"{record.topic}[{record.partition}] offset {record.offset}"
        if error is not None:
            self._error = f"the embedded Kafka refused {where} of the log: {error}"
        elif message.offset() != record.offset:
            self._error = f"the embedded Kafka took {where} of the log at offset {message.offset()}"

    def flush(self) -> None:
        while self._producer.flush(1.0):
            self._check_broker()
        if self._error:
            raise RestoreError(self._error)

    def commit(self, groups: GroupOffsets) -> None:
        """Commit offsets, at most up to the end of each partition: a record that was lost is not waited for."""
        wanted = {
            name: [
                TopicPartition(topic, part, min(offset, self.ends[topic, part]))
                for topic, part, offset in offsets
                if (topic, part) in self.ends
            ]
            for name, offsets in groups.items()
        }
        for name, parts in wanted.items():
            if parts:
                asked = [ConsumerGroupTopicPartitions(name, parts)]
                for future in self._admin.alter_consumer_group_offsets(asked, request_timeout=TIMEOUT_S).values():
                    future.result()
