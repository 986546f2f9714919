"""The exit code of a command that ends with an error."""

import redis
from confluent_kafka import KafkaException

from infra.ports.errors import ForYouError


def exit_code(error: Exception) -> int | None:
    """1 if a server or the data is in the way, 2 for wrong usage, None for a defect of the program."""
    if isinstance(error, ForYouError):
        return error.exit_code
    return 1 if isinstance(error, KafkaException | redis.RedisError) else None
