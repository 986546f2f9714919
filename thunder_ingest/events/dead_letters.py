"""Dead letters: the record of a refused message, with its bytes, its position and the reason."""

from confluent_kafka import Message

from infra.ports.clock import now_ms
from infra.ports.producer import Record
from thunder_ingest.events import DeadLetter, pack


def dead_letter(message: Message, reason: object) -> Record:
    """Return the record of a refused message; its key is the source topic."""
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
