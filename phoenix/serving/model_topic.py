"""The topic `models`: records that name the current model. The record with the newest time wins, in any order.

The topic takes precedence over the settings. `announce` writes a time above all others of the topic, so that
compaction keeps the newest record.
"""

import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from infra.ports.clock import now_ms
from infra.ports.consumer import MessageCheck, wait_for_topics
from infra.ports.errors import BrokerUnreachable
from infra.ports.kafka_config import consumer_config, group
from infra.ports.producer import KafkaProducer, Record
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from thunder_ingest.events import ModelPointer, pack, unpack_pointer

log = logging.getLogger(__name__)

TOPIC: Final = "models"
NAME: Final = "phoenix"
"""The key of all records: one record announces both the ranker and the two-tower model of a version."""
BATCH_MESSAGES: Final = 100


def announce(settings: Settings, version: str, location: str) -> ModelPointer:
    """Make a model the current one; return after the delivery of its record.

    Raises:
        BrokerUnreachable, TopicMissing: like `scan`.
        DeliveryFailed: the broker refused the record.

    """
    last_at = max((pointer.at for pointer in read_model_records(settings)), default=0)
    pointer = ModelPointer(name=NAME, version=version, location=location, at=max(now_ms(), last_at + 1))
    producer = KafkaProducer(settings)
    producer.send(Record(TOPIC, NAME.encode(), pack(pointer)))
    producer.flush()
    return pointer


def read_model_records(settings: Settings) -> list[ModelPointer]:
    """Read all records of `models`, the current model first; raises BrokerUnreachable, TopicMissing like `scan`."""
    found = [pointer for messages in scan(settings, [TOPIC]) for pointer in _pointers(messages)]
    return sorted(found, key=_age, reverse=True)


def wait_for_model_records(settings: Settings, stopping: threading.Event) -> list[ModelPointer]:
    """Read the records like `read_model_records`, but wait while no broker answers."""
    while True:
        wait_for_topics(settings, [TOPIC], stopping)
        with suppress(BrokerUnreachable):
            return read_model_records(settings)


class ModelWatcher:
    """Follows `models`; belongs to no consumer group. One thread at a time may call.

    Args:
        settings: address of Kafka; the constructor waits while no broker answers.
        known: the current model at the last look; older records are ignored.
        stopping: ends that wait.

    """

    def __init__(self, settings: Settings, known: ModelPointer | None, stopping: threading.Event) -> None:
        partitions = wait_for_topics(settings, [TOPIC], stopping)[TOPIC]
        self._consumer = Consumer(consumer_config(settings, group(settings, "watch"), fetch_wait_ms=1_000))
        self._consumer.assign([TopicPartition(TOPIC, partition, OFFSET_BEGINNING) for partition in partitions])
        self._check = MessageCheck(settings, self._consumer)
        self._current = known

    def poll(self, timeout_s: float) -> ModelPointer | None:
        """Wait for records at most `timeout_s`; return the current model of all records read so far."""
        pointers = _pointers(self._check.usable(self._consumer.consume(BATCH_MESSAGES, timeout_s)))
        self._current = max([*pointers, *([self._current] if self._current else [])], key=_age, default=None)
        return self._current

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()


def _age(pointer: ModelPointer) -> tuple[int, str, str]:
    return pointer.at, pointer.version, pointer.location


def _pointers(messages: Iterable[Message]) -> list[ModelPointer]:
    return [pointer for message in messages if (pointer := _pointer(message)) is not None and pointer.name == NAME]


def _pointer(message: Message) -> ModelPointer | None:
    value = message.value()
    if value is None:
        return None
    try:
        return unpack_pointer(value)
    except msgspec.DecodeError as reason:
        where = f"{message.topic()}[{message.partition()}] at offset {message.offset()}"
        log.error("the record in %s cannot be read and is ignored: %s", where, reason)
        return None
