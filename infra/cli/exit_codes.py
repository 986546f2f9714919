"""The exit code and the one line of a command that ends with an error."""

from typing import NamedTuple

from confluent_kafka import KafkaException

from infra.ports.errors import ForYouError
from infra.ports.redis import REDIS_ERRORS


class Failure(NamedTuple):
    """The end of a command with an error that the user can correct."""

    exit_code: int
    message: str


def failure_of(error: Exception) -> Failure | None:
    """Exit code 1 if a server or the data failed, 2 for wrong usage; None for a defect of the program."""
    if isinstance(error, ForYouError):
        return Failure(error.exit_code, str(error))
    if isinstance(error, (KafkaException, *REDIS_ERRORS)):
        return Failure(1, str(error))
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(2, f"{error.filename}: {error.strerror}")
    return None
