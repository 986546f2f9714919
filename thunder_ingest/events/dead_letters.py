"""Dead letters: the record of a refused message, with its bytes, its position and the reason."""

from typing import Final

import msgspec
from confluent_kafka import Message

from infra.ports.clock import now_ms
from infra.ports.producer import Record
from thunder_ingest.events import MAX_MESSAGE_BYTES, DeadLetter, pack, unpack_dead_letter

TOPIC: Final = "dead-letters"
KEPT_VALUE_BYTES: Final = MAX_MESSAGE_BYTES
"""A longer value is cut: no such message can be valid. The topic accepts 1 MiB more, for the rest of a letter."""
KEPT_KEY_BYTES: Final = 4_096
KEPT_REASON: Final = 2_000
"""Characters of a reason; a reason may quote the message."""
SMALL_BYTES: Final = 10_000
"""The value of a letter that the broker refused is cut to this size, and then left out."""


def dead_letter(message: Message, reason: object) -> Record:
    """Return the record of a refused message; its key is the source topic. A long message is cut.

    A message with an error has no bytes: it stands for those that cannot be read from its offset on.
    """
    topic, error = message.topic() or "", message.error()
    key, key_bytes = _cut(None if error else _raw(message.key()), KEPT_KEY_BYTES)
    value, value_bytes = _cut(None if error else _raw(message.value()), KEPT_VALUE_BYTES)
    letter = DeadLetter(
        topic=topic,
        partition=message.partition() or 0,
        offset=message.offset() or 0,
        at=now_ms(),
        reason=str(reason)[:KEPT_REASON],
        key=key,
        value=value,
        key_bytes=key_bytes,
        value_bytes=value_bytes,
    )
    return Record(TOPIC, topic.encode(), pack(letter))


def substitute(record: Record) -> Record | None:
    """Return the record to write in place of one that Kafka refuses, for example since it is too large.

    A dead letter is cut further. A post becomes a tombstone: an older record of it would show what has changed since.
    """
    if record.topic == TOPIC:
        return _smaller(record)
    if record.topic == "thunder-posts" and (record.value or record.headers):
        return Record(record.topic, record.key, None)
    return None


def _smaller(record: Record) -> Record | None:
    letter = unpack_dead_letter(record.value or b"")
    if not letter.value:
        return None
    kept = SMALL_BYTES if len(letter.value) > SMALL_BYTES else 0
    value, value_bytes = _cut(letter.value, kept)
    letter = msgspec.structs.replace(letter, value=value, value_bytes=letter.value_bytes or value_bytes)
    return msgspec.structs.replace(record, value=pack(letter))


def _cut(raw: bytes | None, limit: int) -> tuple[bytes | None, int | None]:
    """Return the bytes within a limit, and the original size if bytes are missing."""
    return (raw, None) if raw is None or len(raw) <= limit else (raw[:limit], len(raw))


def _raw(text: str | bytes | None) -> bytes | None:
    return text.encode() if isinstance(text, str) else text
