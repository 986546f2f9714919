"""Consumers: the check of consumed messages, the wait for topics, and watermarks."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from infra.ports.error_table import KAFKA_GROUP_EVENTS, KAFKA_RETRIES, Reaction, kafka_reaction
from infra.ports.errors import BrokerRefused, BrokerUnreachable, TopicMissing
from infra.ports.kafka_config import consumer_config, group, kafka_outage, kafka_probe
from infra.ports.process_metrics import KAFKA_ERRORS, SKIPPED_OFFSETS
from infra.ports.settings import Settings, SettingsError

log = logging.getLogger(__name__)

IDLE_S: Final = 0.3
SETTLE_S: Final = 2.0
"""The embedded broker reports the start of the last batch, plus one, as the high watermark. At the watermark a reader
therefore reads on: until IDLE_S pass without a message, and at most for SETTLE_S, since other producers may continue.
"""
RETRY_S: Final = 1.0
"""Errors of the same second count as one, since all partitions may report it."""
FORGET_S: Final = 60.0
"""Time without an unknown error after which the earlier ones no longer count."""
UNREADABLE: Final = {KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION}
"""Errors of a batch of messages that cannot be read; its bytes stay in Kafka."""
_OUT_OF_RANGE: Final = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION}


class MessageCheck:
    """Separates the usable messages of one consumer from errors. The table of errors decides the reaction to each.

    A batch of messages that cannot be read is skipped: for example, a few kB that decompress to more than 100 MB.
    librdkafka would try it for ever. The offset of its end is not known, so the consumer seeks offset by offset.

    For the thread of the consumer.

    Args:
        settings: address of Kafka.
        consumer: delivers the messages; its partitions are assigned.
        keeps_unreadable: `usable` also returns one message, with its error, for each batch that cannot be read: the
            caller makes it a dead letter.

    Attributes:
        position_is_lost: True after an error of WAIT. librdkafka may have given up a request of this consumer, such as
            the query of committed offsets, for good.

    """

    def __init__(self, settings: Settings, consumer: Consumer, *, keeps_unreadable: bool = False) -> None:
        self._settings, self._consumer, self._keeps_unreadable = settings, consumer, keeps_unreadable
        self._outage = kafka_outage(settings)
        self._unknown, self._unknown_at_s = 0, -RETRY_S
        self._unreadable: dict[tuple[str, int], tuple[int, int]] = {}
        self._stepped: set[tuple[str, int]] = set()
        self.position_is_lost = False

    def reads(self, consumer: Consumer) -> None:
        """Go on with another consumer at known offsets; unknown errors of both count together."""
        self._consumer = consumer
        self._unreadable.clear()
        self.position_is_lost = False

    def usable(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the messages without an error, in order.

        Raises:
            BrokerRefused: for an error that ends the process.

        """
        self._stepped.clear()
        if any(message.error() is not None for message in messages):
            messages = [message for message in messages if message.error() is None or self._is_kept(message)]
        if messages:
            self._unknown = 0
            self._outage.ends()
        return messages

    def _is_kept(self, message: Message) -> bool:
        error, part = message.error(), (message.topic() or "", message.partition() or 0)
        before = self._unreadable.get(part)
        self._react(message)
        is_first = before is None or before[0] != message.offset()
        return self._keeps_unreadable and error is not None and error.code() in UNREADABLE and is_first

    def _react(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        KAFKA_ERRORS.add(error.name())
        reaction = kafka_reaction(error)
        if error.code() in KAFKA_GROUP_EVENTS:
            log.debug("%s", error.str())
        elif reaction is Reaction.SKIP:
            self._skip(message, error)
        elif reaction is Reaction.WAIT:
            self.position_is_lost = True
            self._outage.begins(error.str(), kafka_probe(self._settings))
        elif reaction is Reaction.END or self._is_exhausted():
            raise BrokerRefused(f"Kafka at {self._settings.kafka}: {error.str()} ({error.name()})")
        else:
            self.position_is_lost = True
            log.warning("%s (%s); retrying", error.str(), error.name())

    def _is_exhausted(self) -> bool:
        """True after too many unknown errors in a row; all partitions may report one error, which counts once."""
        if (since_s := time.monotonic() - self._unknown_at_s) < RETRY_S:
            return False
        self._unknown = self._unknown + 1 if since_s < FORGET_S else 1
        self._unknown_at_s = time.monotonic()
        return self._unknown > KAFKA_RETRIES

    def _skip(self, message: Message, error: KafkaError) -> None:
        if error.code() in _OUT_OF_RANGE:
            self._continue_at_the_beginning(message, error)
        elif error.code() in UNREADABLE and message.offset() is not None:
            self._step_over(message, error)
        else:
            log.error("%s: %s", _place(message), error.str())

    def _step_over(self, message: Message, error: KafkaError) -> None:
        part, first = (message.topic() or "", message.partition() or 0), message.offset() or 0
        if part in self._stepped:  # a second report of one attempt
            return
        self._stepped.add(part)
        known, steps = self._unreadable.get(part, (-1, 0))
        steps = steps + 1 if known == first else 1
        self._unreadable[part] = first, steps
        if steps == 1:
            log.error("%s: the messages from offset %d on are skipped: %s", _place(message), first, error.str())
        self._consumer.seek(TopicPartition(*part, first + steps))

    def _continue_at_the_beginning(self, message: Message, error: KafkaError) -> None:
        """Read on at the first message that is left; the offset to read was removed, or never existed."""
        part = TopicPartition(message.topic() or "", message.partition() or 0)
        wanted, (low, high) = message.offset() or 0, watermarks(self._consumer, part)
        # librdkafka has stopped the partition: a seek would fail
        self._consumer.incremental_unassign([part])
        self._consumer.incremental_assign([TopicPartition(part.topic, part.partition, low)])
        if 0 <= wanted < low:
            SKIPPED_OFFSETS.add(f"{part.topic}-{part.partition}", low - wanted)
            log.error(
                "%s: offsets %d to %d were removed before they were read (retention): reading continues at %d",
                *(_place(message), wanted, low - 1, low),
            )
        else:
            log.error("%s: %s; its offsets are now %d to %d", _place(message), error.str(), low, high - 1)


def check_commit(settings: Settings) -> Callable[[KafkaError | None, Sequence[TopicPartition]], None]:
    """Return an `on_commit` for a consumer that commits again soon, so that a failed commit needs no retry.

    The callback raises BrokerRefused for an error that ends the process, in the thread that polls.
    """
    unknown = 0

    def check(error: KafkaError | None, _: Sequence[TopicPartition]) -> None:
        nonlocal unknown
        if error is None:
            unknown = 0
            return
        KAFKA_ERRORS.add(error.name())
        reaction = kafka_reaction(error)
        unknown += reaction is None
        if reaction is Reaction.END or unknown > KAFKA_RETRIES:
            raise BrokerRefused(f"Kafka at {settings.kafka} refuses a commit: {error.str()} ({error.name()})")
        log.debug("a commit failed, the next one follows: %s", error.str())

    return check


def _place(message: Message) -> str:
    return f"{message.topic()}[{message.partition()}]"


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
    kind: int
    timestamp_ms: int
    kind, timestamp_ms = message.timestamp()
    if kind == TIMESTAMP_LOG_APPEND_TIME:
        return timestamp_ms
    return min(timestamp_ms, read_ms) if at_ms <= timestamp_ms + tolerance_ms else read_ms


def close_soon(consumer: Consumer) -> None:
    """Close a consumer that is in no group, in a thread: librdkafka waits up to a second for a timer of its own."""
    threading.Thread(target=consumer.close, name="close").start()


def partitions_of(settings: Settings, topics: Iterable[str], timeout_s: float = 5.0) -> dict[str, list[int]]:
    """Return the partitions of topics, from one metadata request.

    Raises:
        BrokerUnreachable: no broker answers in `timeout_s`; the text has the address.
        BrokerRefused: the brokers refuse the user or the password.
        SettingsError: librdkafka does not accept `kafka_options`.
        TopicMissing: the text has the topics and the command that creates them.

    """
    reports: list[KafkaError] = []
    try:
        probe = Consumer(consumer_config(settings, group(settings, "probe")) | {"error_cb": reports.append})
    except KafkaException as error:
        raise SettingsError(f"FORYOU_KAFKA_OPTIONS: {error.args[0].str()}") from None
    try:
        known = probe.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        reason = error.args[0].str()
        probe.poll(0)  # runs error_cb
        if refusal := next((each for each in reports if kafka_reaction(each) is Reaction.END), None):
            raise BrokerRefused(f"Kafka at {settings.kafka}: {refusal.str()}") from None
        raise BrokerUnreachable(
            f"no Kafka broker answers at {settings.kafka} ({reason}): start one with `foryou up`, or name yours in "
            "FORYOU_KAFKA"
        ) from None
    finally:
        close_soon(probe)
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
    unreachable = kafka_outage(settings)
    while not stopping.is_set():
        try:
            found = partitions_of(settings, topics)
        except BrokerUnreachable as error:
            unreachable.begins(error)
            stopping.wait(1.0)
        else:
            unreachable.ends()
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
