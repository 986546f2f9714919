import pytest
from confluent_kafka import KafkaError

from infra.ops.message_fix import Fix
from infra.ports.kafka_config import MAX_RECORD_BYTES
from infra.ports.message import MessageCopy
from thunder_ingest.events import DeadLetter, Refused, unpack_dead_letter
from thunder_ingest.events.dead_letters import KEPT_KEY_BYTES, KEPT_VALUE_BYTES, dead_letter


def letter_of(key: bytes | None, value: bytes | None, reason: str = "no such field") -> DeadLetter:
    record = dead_letter(MessageCopy(topic="posts", partition=1, offset=2, key=key, value=value), reason)
    assert len(record.value or b"") < MAX_RECORD_BYTES
    return unpack_dead_letter(record.value or b"")


@pytest.mark.parametrize("value", [None, b"", b"x", b"x" * KEPT_VALUE_BYTES])
def test_a_message_that_fits_is_kept_whole(value: bytes | None) -> None:
    letter = letter_of(b"key", value)
    assert (letter.key, letter.value, letter.is_cut) == (b"key", value, False)


def test_a_message_that_does_not_fit_is_cut_and_its_size_is_kept() -> None:
    letter = letter_of(b"k" * 5_000, b"x" * 5_000_000, "r" * 9_000)
    assert (letter.key, letter.key_bytes) == (b"k" * KEPT_KEY_BYTES, 5_000)
    assert (letter.value, letter.value_bytes) == (b"x" * KEPT_VALUE_BYTES, 5_000_000)
    assert len(letter.reason) == 2_000
    with pytest.raises(Refused, match="only a part"):
        Fix().apply(letter, 0)


def test_a_message_that_cannot_be_read_has_no_bytes() -> None:
    error = KafkaError(KafkaError._BAD_COMPRESSION)
    message = MessageCopy(topic="posts", partition=1, offset=2, value=b"text of the error", error=error)
    letter = unpack_dead_letter(dead_letter(message, "unreadable").value or b"")
    assert (letter.offset, letter.value, letter.reason) == (2, None, "unreadable")
