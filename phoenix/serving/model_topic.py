"""The topic `models`: which model is current. The newest record by its own time decides, wherever it stands.

Nothing in the topic means what the settings name. Whoever announces writes a time above all that stand there, so that
the record which compaction keeps is the newest one too.
"""

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from infra.ports.kafka import BrokerUnreachable, Publisher, Record, consumer_config, group, wait_for_topics
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from thunder_ingest.events import ModelPointer, pack, unpack_pointer

log = logging.getLogger(__name__)

TOPIC: Final = "models"
NAME: Final = "phoenix"
"""Both models of a version are announced as one, under this name: the key of all records."""
READ_AT_ONCE: Final = 100


def announce(settings: Settings, version: str, location: str) -> ModelPointer:
    """Make a model the current one, and return once Kafka has it.

    Raises:
        BrokerUnreachable, TopicMissing: like `scan`.
        DeliveryFailed: the broker refused it.

    """
    last_at = max((pointer.at for pointer in announced(settings)), default=0)
    at = max(time.time_ns() // 1_000_000, last_at + 1)
    pointer = ModelPointer(name=NAME, version=version, location=location, at=at)
    publisher = Publisher(settings)
    publisher.publish([Record(TOPIC, NAME.encode(), pack(pointer))])
    publisher.flush()
    return pointer


def announced(settings: Settings) -> list[ModelPointer]:
    """What stands in `models` now, the current one first; raises BrokerUnreachable, TopicMissing like `scan`."""
    found = [pointer for messages in scan(settings, [TOPIC]) for pointer in _pointers(messages)]
    return sorted(found, key=_age, reverse=True)


def await_announced(settings: Settings, stopping: threading.Event) -> list[ModelPointer]:
    """The same, waiting as long as no broker answers."""
    while True:
        wait_for_topics(settings, [TOPIC], stopping)
        with suppress(BrokerUnreachable):
            return announced(settings)


class Watch:
    """Reads `models` as it grows; belongs to no consumer group.

    Args:
        settings: where Kafka is; as long as no broker answers there, it is waited for.
        known: what was current when it was last looked; what is older is not.
        stopping: ends that wait.

    """

    def __init__(self, settings: Settings, known: ModelPointer | None, stopping: threading.Event) -> None:
        partitions = wait_for_topics(settings, [TOPIC], stopping)[TOPIC]
        self._consumer = Consumer(consumer_config(settings, group(settings, "watch")))
        self._consumer.assign([TopicPartition(TOPIC, partition, OFFSET_BEGINNING) for partition in partitions])
        self._current = known

    def poll(self, timeout_s: float) -> ModelPointer | None:
        """What is current as far as was read, once something has come or the time is over."""
        pointers = _pointers(self._consumer.consume(READ_AT_ONCE, timeout_s))
        self._current = max([*pointers, *([self._current] if self._current else [])], key=_age, default=None)
        return self._current

    def close(self) -> None:
        """Read no more."""
        self._consumer.close()


def _age(pointer: ModelPointer) -> tuple[int, str, str]:
    return pointer.at, pointer.version, pointer.location


def _pointers(messages: Iterable[Message]) -> list[ModelPointer]:
    return [pointer for message in messages if (pointer := _pointer(message)) is not None and pointer.name == NAME]


def _pointer(message: Message) -> ModelPointer | None:
    error, value = message.error(), message.value()
    if error is not None and not error.retriable():
        raise KafkaException(error)
    if error is not None or value is None:
        return None
    try:
        return unpack_pointer(value)
    except msgspec.DecodeError as reason:
        where = f"{message.topic()}[{message.partition()}] at offset {message.offset()}"
        log.error("the record in %s cannot be read, and announces nothing: %s", where, reason)
        return None
