"""Records of derived topics that cannot be read: skipped, counted by topic, and the first are named in the log."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import msgspec

from infra.ports.process_metrics import BROKEN_RECORDS

log = logging.getLogger(__name__)

UNREADABLE: Final = (ValueError, TypeError, OverflowError, msgspec.MsgspecError)
"""The errors of a key or a value that is not in the form of its topic."""
_NAMED: Final = 100  # records of a topic; more are only counted

T = TypeVar("T")


def skip_record(topic: str, key: object, reason: Exception) -> None:
    """Count a record that is skipped."""
    BROKEN_RECORDS.add(topic)
    if BROKEN_RECORDS.values()[topic] <= _NAMED:
        log.error("the record of %s with key %r cannot be read and is skipped: %s", topic, key, reason)


def readable(topic: str, messages: Iterable[Any], read: Callable[[Any], T]) -> Iterator[T]:
    """Yield the outcome of `read` for each message of a derived topic; skip those that it cannot read."""
    for message in messages:
        try:
            outcome = read(message)
        except UNREADABLE as error:
            skip_record(topic, message.key(), error)
        else:
            yield outcome
