"""The error codes of Kafka and librdkafka."""

from typing import Final

from confluent_kafka import KafkaError

ALL_CODES: Final = sorted(
    {
        code
        for name in dir(KafkaError)
        if name == name.upper() and isinstance(code := getattr(KafkaError, name), int) and code != KafkaError.NO_ERROR
    }
)
