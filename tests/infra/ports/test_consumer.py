import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from infra.ports.consumer import usable_messages


def message(offset: int, error: int | None = None) -> Message:
    return Message(topic="posts", partition=0, offset=offset, error=None if error is None else KafkaError(error))


def test_messages_without_an_error_are_usable_in_order() -> None:
    messages = [message(1), message(2)]
    assert usable_messages(messages) == messages


@pytest.mark.parametrize(
    "code", [KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET, KafkaError._MAX_POLL_EXCEEDED]
)
def test_an_error_that_a_consumer_survives_is_skipped(code: int) -> None:
    assert [each.offset() for each in usable_messages([message(1), message(2, code), message(3)])] == [1, 3]


def test_any_other_error_is_raised() -> None:
    with pytest.raises(KafkaException):
        usable_messages([message(1), message(2, KafkaError.TOPIC_AUTHORIZATION_FAILED)])
