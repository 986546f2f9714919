"""Dead letters: a refused message, kept whole, with the reason and where it stood."""

from confluent_kafka import Message

from infra.ports.clock import now_ms
from infra.ports.producer import Record
from thunder_ingest.events import DeadLetter, pack


def dead_letter(message: Message, reason: object) -> Record:
    """The record that keeps a refused message whole, keyed by its topic."""
    topic = message.topic() or ""
    key, value = message.key(), message.value()
    letter = DeadLetter(
        topic=topic,
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        at=now_ms(),
        reason=str(reason),
        key=key.encode() if isinstance(key, str) else key,
        value=value.encode() if isinstance(value, str) else value,
    )
    return Record("dead-letters", topic.encode(), pack(letter))
