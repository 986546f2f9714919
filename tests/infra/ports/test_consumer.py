import pytest
from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
    KafkaError,
    KafkaException,
    Message,
)

from infra.ports.consumer import arrived_ms, usable_messages

NOW = 1_700_000_000_000


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


@pytest.mark.parametrize(
    ("kind", "timestamp_ms", "at_ms", "arrived"),
    [
        (TIMESTAMP_LOG_APPEND_TIME, NOW - 900, NOW, NOW - 900),
        (TIMESTAMP_LOG_APPEND_TIME, NOW + 900, NOW, NOW + 900),  # the broker's clock is the one that counts
        (TIMESTAMP_CREATE_TIME, NOW - 900, NOW + 30, NOW - 900),
        (TIMESTAMP_CREATE_TIME, NOW + 900, NOW + 900, NOW),  # a fast clock of a producer
        (TIMESTAMP_CREATE_TIME, 5, NOW - 7_000, NOW),  # a wrong one
        (TIMESTAMP_NOT_AVAILABLE, 0, NOW - 7_000, NOW),
    ],
)
def test_a_message_arrives_at_the_brokers_time_or_else_at_a_producers_as_far_as_it_can_be_right(
    kind: int, timestamp_ms: int, at_ms: int, arrived: int
) -> None:
    stamped = Message(topic="posts", partition=0, offset=0, timestamp=(kind, timestamp_ms))
    assert arrived_ms(stamped, at_ms, 5_000, NOW) == arrived
