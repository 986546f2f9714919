"""Reading topics whole, from the beginning to the end that they have now, while others go on writing to them."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from infra.ports.kafka import BrokerUnreachable, consumer_config, group, partitions_of, watermarks
from infra.ports.settings import Settings

BATCH_MESSAGES = 5_000
IDLE_S = 0.3
SETTLE_S = 2.0
"""How long to look for more behind the watermarks: the embedded broker's are those of the last batch's start."""
STALLED_S = 30.0

Part: TypeAlias = tuple[str, int]
Bounds: TypeAlias = dict[Part, tuple[int, int]]
"""Of each partition that is not empty the first offset and the one after the last."""


def scan(
    settings: Settings, topics: Sequence[str], advance: Callable[[float, float], None] = lambda _done, _total: None
) -> Iterator[list[Message]]:
    """Everything that stands in some topics now, in batches, in order within a partition; belongs to no group.

    Args:
        settings: where Kafka is.
        topics: read side by side.
        advance: told how many messages have been passed, and of how many.

    Raises:
        BrokerUnreachable: no broker answers, or it stops answering on the way.
        TopicMissing: naming the topics and what creates them.

    """
    partitions = partitions_of(settings, topics)
    consumer = Consumer(consumer_config(settings, group(settings, "reader")))
    try:
        bounds = _bounds(consumer, [(topic, part) for topic in topics for part in partitions[topic]])
        consumer.assign([TopicPartition(*part, OFFSET_BEGINNING) for part in bounds])
        if bounds:
            yield from _read(consumer, bounds, advance)
    finally:
        consumer.close()


def _bounds(consumer: Consumer, parts: list[Part]) -> Bounds:
    found = {part: watermarks(consumer, TopicPartition(*part)) for part in parts}
    return {part: (low, high) for part, (low, high) in found.items() if high > low}


def _read(consumer: Consumer, bounds: Bounds, advance: Callable[[float, float], None]) -> Iterator[list[Message]]:
    reached = {part: low for part, (low, _) in bounds.items()}
    total = sum(high - low for low, high in bounds.values())
    heard_at, settled_at = time.monotonic(), float("inf")
    while time.monotonic() < settled_at:
        messages = [message for message in consumer.consume(BATCH_MESSAGES, IDLE_S) if _is_usable(message)]
        for message in messages:
            reached[_part(message)] = (message.offset() or 0) + 1
        if messages:
            yield messages
            heard_at = time.monotonic()  # what was done with them took its own time
        behind = _behind(consumer, bounds, reached)
        advance(total - behind, total)
        if behind and time.monotonic() - heard_at > STALLED_S:
            raise BrokerUnreachable(f"Kafka has told nothing for {STALLED_S:.0f} s, {behind:,} messages before the end")
        if not behind:
            if not messages:
                return
            settled_at = min(settled_at, time.monotonic() + SETTLE_S)


def _behind(consumer: Consumer, bounds: Bounds, reached: dict[Part, int]) -> int:
    """How many offsets are still to be passed; compaction leaves gaps, so the consumer's own position counts too."""
    open_ = [part for part, (_, high) in bounds.items() if reached[part] < high]
    for part in consumer.position([TopicPartition(*part) for part in open_]) if open_ else ():
        reached[part.topic, part.partition] = max(reached[part.topic, part.partition], part.offset)
    return sum(max(0, high - reached[part]) for part, (_, high) in bounds.items())


def _part(message: Message) -> Part:
    return message.topic() or "", message.partition() or 0


def _is_usable(message: Message) -> bool:
    error = message.error()
    if error is None:
        return True
    if not error.retriable():
        raise KafkaException(error)
    return False
