"""A copy of a Kafka message."""

from collections.abc import Sequence
from typing import Self

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, Message


class MessageCopy:
    """A message with the methods of `confluent_kafka.Message`, which can neither be constructed nor pickled.

    Args:
        topic: of the message, like all that follows.
        partition: number of the partition.
        offset: in the partition.
        key: raw bytes, or None.
        value: raw bytes, None for a tombstone.
        timestamp: kind and epoch ms.
        error: of a message that cannot be used.

    """

    def __init__(
        self,
        topic: str,
        partition: int = 0,
        offset: int = 0,
        *,
        key: bytes | None = None,
        value: bytes | None = None,
        timestamp: tuple[int, int] = (TIMESTAMP_NOT_AVAILABLE, 0),
        error: KafkaError | None = None,
    ) -> None:
        self._topic, self._partition, self._offset = topic, partition, offset
        self._key, self._value, self._timestamp, self._error = key, value, timestamp, error

    @classmethod
    def of(cls, message: Message | Self) -> Self:
        """Copy a message without an error and without headers."""
        place = message.topic() or "", message.partition() or 0, message.offset() or 0
        return cls(*place, key=message.key(), value=message.value(), timestamp=message.timestamp())

    def topic(self) -> str:
        """Return the topic."""
        return self._topic

    def partition(self) -> int:
        """Return the number of the partition."""
        return self._partition

    def offset(self) -> int:
        """Return the offset in the partition."""
        return self._offset

    def key(self) -> bytes | None:
        """Return the raw key."""
        return self._key

    def value(self) -> bytes | None:
        """Return the raw value, None for a tombstone."""
        return self._value

    def timestamp(self) -> tuple[int, int]:
        """Return the kind of the timestamp, and the timestamp in epoch ms."""
        return self._timestamp

    def headers(self) -> Sequence[tuple[str, bytes]] | None:
        """Return None: a copy has no headers."""
        return None

    def error(self) -> KafkaError | None:
        """Return the error of a message that cannot be used."""
        return self._error
