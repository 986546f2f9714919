"""Consumers: the check of consumed messages, the wait for topics, and watermarks."""

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Final

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from infra.ports.errors import BrokerUnreachable, TopicMissing
from infra.ports.kafka_config import consumer_config, group
from infra.ports.outage import outage
from infra.ports.settings import Settings

log = logging.getLogger(__name__)

IDLE_S: Final = 0.3
SETTLE_S: Final = 2.0
"""The embedded broker reports the start of the last batch, plus one, as the high watermark. At the watermark a reader
therefore reads on: until IDLE_S pass without a message, and at most for SETTLE_S, since other producers may continue.
"""
_SKIPPED: Final = {
    KafkaError._PARTITION_EOF: logging.WARNING,
    KafkaError._AUTO_OFFSET_RESET: logging.WARNING,
    # a worker does not poll during an outage of Redis: it loses its partitions, and rejoins the group later
    KafkaError._MAX_POLL_EXCEEDED: logging.DEBUG,
}
"""Errors that a consumer survives, with their log levels. It also survives retriable errors: librdkafka retries."""


def usable_messages(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages without an error, in order.

    Raises:
        KafkaException: for the first error that a consumer does not survive.

    """
    if all(message.error() is None for message in messages):
        return messages
    return [message for message in messages if _is_usable(message)]


def _is_usable(message: Message) -> bool:
    error = message.error()
    if error is None:
        return True
    level = _SKIPPED.get(error.code())
    if level is not None:
        log.log(level, "%s[%s]: %s", message.topic(), message.partition(), error.str())
    elif not error.retriable():
        raise KafkaException(error)
    return False


def arrived_ms(message: Message, at_ms: int, tolerance_ms: int, read_ms: int) -> int:
    """Return the arrival of a message, epoch ms: the broker's timestamp.

    A topic without `LogAppendTime` has the timestamps of producers, whose clocks may be fast or wrong. They count up to
    the time of the reading, and only if the event is not far ahead of them. Else the message arrives when it is read.

    Args:
        message: as it was consumed.
        at_ms: the time of its event.
        tolerance_ms: the largest distance of an event ahead of a producer's timestamp.
        read_ms: the present time.

    """
    kind, timestamp_ms = message.timestamp()
    if kind == TIMESTAMP_LOG_APPEND_TIME:
        return timestamp_ms
    return min(timestamp_ms, read_ms) if at_ms <= timestamp_ms + tolerance_ms else read_ms


def partitions_of(settings: Settings, topics: Iterable[str], timeout_s: float = 5.0) -> dict[str, list[int]]:
    """Return the partitions of topics, from one metadata request.

    Raises:
        BrokerUnreachable: no broker answers in `timeout_s`; the text has the address.
        TopicMissing: the text has the topics and the command that creates them.

    """
    probe = Consumer(consumer_config(settings, group(settings, "probe")))
    try:
        known = probe.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        reason = error.args[0].str()
        raise BrokerUnreachable(
            f"no Kafka broker answers at {settings.kafka} ({reason}): start one with `foryou up`, or name yours in "
            "FORYOU_KAFKA"
        ) from None
    finally:
        probe.close()
    missing = [topic for topic in topics if topic not in known or not known[topic].partitions]
    if missing:
        raise TopicMissing(
            f"Kafka at {settings.kafka} has no topic {', '.join(missing)}: create them with `foryou topics --create`"
        )
    return {topic: sorted(known[topic].partitions) for topic in topics}


def wait_for_topics(settings: Settings, topics: Iterable[str], stopping: threading.Event) -> dict[str, list[int]]:
    """Return the partitions of topics; wait without limit while no broker answers.

    Raises:
        TopicMissing: as in `partitions_of`.
        SystemExit: code 0, after `stopping` was set.

    """
    topics = tuple(topics)
    kafka_outage = outage("Kafka", settings.kafka)
    while not stopping.is_set():
        try:
            found = partitions_of(settings, topics)
        except BrokerUnreachable as error:
            kafka_outage.begins(error)
            stopping.wait(1.0)
        else:
            kafka_outage.ends()
            return found
    raise SystemExit(0)


def watermarks(consumer: Consumer, part: TopicPartition, timeout_s: float = 60.0) -> tuple[int, int]:
    """Return the first offset of a partition and the offset after its last message; retry for `timeout_s`.

    Raises:
        BrokerUnreachable: after `timeout_s`.

    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            low, high = consumer.get_watermark_offsets(part, timeout=5)
        except KafkaException as error:
            if time.monotonic() > deadline:
                reason = error.args[0].str()
                raise BrokerUnreachable(f"Kafka does not report the end of {part.topic}: {reason}") from None
            time.sleep(0.2)
        else:
            return low, high
