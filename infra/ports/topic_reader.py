"""Reads topics whole: from the beginning to their end at the start of the call, while others go on writing."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from infra.ports.consumer import IDLE_S, SETTLE_S, MessageCheck, close_soon, partitions_of, watermarks
from infra.ports.errors import BrokerUnreachable
from infra.ports.kafka_config import consumer_config, group
from infra.ports.settings import Settings

BATCH_MESSAGES: Final = 5_000
STALLED_S: Final = 30.0
"""Time without a message, before the end, after which the broker counts as unreachable."""

T = TypeVar("T")
Part: TypeAlias = tuple[str, int]
Bounds: TypeAlias = dict[Part, tuple[int, int]]
"""For each partition that is not empty the first offset and the one after the last."""


def give_up(error: BrokerUnreachable) -> None:
    """End a read during an outage."""
    raise error


def scan(
    settings: Settings,
    topics: Sequence[str],
    advance: Callable[[float, float], None] = lambda _done, _total: None,
    wait: Callable[[BrokerUnreachable], None] = give_up,
) -> Iterator[Sequence[Message]]:
    """Read all messages of topics in batches, in order within a partition; commit no offsets.

    Args:
        settings: address and further options of Kafka.
        topics: their names; partitions are read concurrently.
        advance: receives the number of messages read so far, and their total.
        wait: receives each error of an outage, and returns for another attempt; the read goes on where it was.

    Raises:
        BrokerUnreachable: by default; no broker answers, or none sends a message for STALLED_S.
        BrokerRefused: Kafka refuses the process.
        TopicMissing: the text has the topics and the command that creates them.

    """
    partitions = patiently(lambda: partitions_of(settings, topics), wait)
    consumer = Consumer(consumer_config(settings, group(settings, "reader")))
    try:
        parts = [(topic, part) for topic in topics for part in partitions[topic]]
        bounds = patiently(lambda: _bounds(consumer, parts), wait)
        consumer.assign([TopicPartition(*part, OFFSET_BEGINNING) for part in bounds])
        if bounds:
            yield from _read(consumer, MessageCheck(settings, consumer), bounds, advance, wait)
    finally:
        close_soon(consumer)


def patiently(call: Callable[[], T], wait: Callable[[BrokerUnreachable], None]) -> T:
    """Return the result of a call that is repeated during an outage; `wait` as for `scan`."""
    while True:
        try:
            return call()
        except BrokerUnreachable as error:
            wait(error)


def _bounds(consumer: Consumer, parts: list[Part]) -> Bounds:
    found = {part: watermarks(consumer, TopicPartition(*part)) for part in parts}
    return {part: (low, high) for part, (low, high) in found.items() if high > low}


def _read(
    consumer: Consumer,
    check: MessageCheck,
    bounds: Bounds,
    advance: Callable[[float, float], None],
    wait: Callable[[BrokerUnreachable], None],
) -> Iterator[Sequence[Message]]:
    reached = {part: low for part, (low, _) in bounds.items()}
    total = sum(high - low for low, high in bounds.values())
    received_at, settled_at = time.monotonic(), float("inf")
    while time.monotonic() < settled_at:
        messages = check.usable(consumer.consume(BATCH_MESSAGES, IDLE_S))
        for message in messages:
            reached[_part(message)] = (message.offset() or 0) + 1
        if messages:
            yield messages
            received_at = time.monotonic()  # after the yield: the caller's work takes time
        behind = _behind(consumer, bounds, reached)
        advance(total - behind, total)
        if behind and time.monotonic() - received_at > STALLED_S:
            wait(BrokerUnreachable(f"Kafka sent nothing for {STALLED_S:.0f} s, {behind:,} messages before the end"))
            received_at = time.monotonic()
        if not behind:
            if not messages:
                return
            settled_at = min(settled_at, time.monotonic() + SETTLE_S)


def _behind(consumer: Consumer, bounds: Bounds, reached: dict[Part, int]) -> int:
    """Return the number of offsets before the end; compaction leaves gaps, so the consumer's position counts too."""
    open_ = [part for part, (_, high) in bounds.items() if reached[part] < high]
    for part in consumer.position([TopicPartition(*part) for part in open_]) if open_ else ():
        reached[part.topic, part.partition] = max(reached[part.topic, part.partition], part.offset)
    return sum(max(0, high - reached[part]) for part, (_, high) in bounds.items())


def _part(message: Message) -> Part:
    return message.topic() or "", message.partition() or 0
