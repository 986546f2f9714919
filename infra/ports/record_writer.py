"""Writes the records of a process. A record that cannot be written is never the end of the process."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Final

from infra.ports.error_table import KAFKA_RETRIES, Reaction, kafka_reaction
from infra.ports.errors import DeliveryFailed
from infra.ports.process_metrics import KAFKA_ERRORS, REFUSED_RECORDS
from infra.ports.producer import KafkaProducer, Record, Refusal
from infra.ports.settings import Settings
from infra.ports.topics import is_compacted

log = logging.getLogger(__name__)

RETRY_S: Final = 0.5
"""The pause before records are written again."""


class RecordWriter:
    """Writes records, and waits for their delivery. The table of errors decides the reaction to each refusal.

    WAIT, or an error that is not in the table: the record is written again, followed by the later records of its key,
    so that the newest record of a key stays the last one. SKIP: the record is set aside, with a line in the log and a
    metric; its substitute is written, unless a compacted topic has a newer record of its key. END: `deliver` raises.

    For one thread.

    Args:
        settings: address and further options of Kafka.
        check: called several times a second during a wait; may raise to end it.
        substitute: returns the record to write in place of a refused one, None for none. Called again if that one is
            refused too, so its results must become smaller.

    """

    def __init__(
        self,
        settings: Settings,
        check: Callable[[], None],
        substitute: Callable[[Record], Record | None] = lambda _: None,
    ) -> None:
        self._check, self._substitute = check, substitute
        self._producer = KafkaProducer(settings, check=check)
        self._written: list[Record] = []

    def publish(self, records: Iterable[Record]) -> None:
        """Hand records over; wait while the queue is full."""
        first = len(self._written)
        self._written += records
        self._producer.publish(self._written[first:])

    def deliver(self) -> None:
        """Wait without limit until every record is delivered or set aside.

        Raises:
            DeliveryFailed: Kafka refuses the process, or an error that is not in the table persists.

        """
        for attempt in count():
            self._producer.drain()
            refusals = self._producer.take_refusals()
            if not refusals:
                self._written.clear()
                return
            self._producer.publish(self._next_records(refusals, attempt))

    def _next_records(self, refusals: Sequence[Refusal], attempt: int) -> list[Record]:
        newest = {(record.topic, record.key): record for record in self._written}
        again, substitutes = set[tuple[str, bytes | None]](), list[Record]()
        for refusal in refusals:
            key = refusal.topic, refusal.record.key
            KAFKA_ERRORS.add(refusal.error.name())
            reaction = kafka_reaction(refusal.error)
            if reaction is Reaction.END or (reaction is None and attempt >= KAFKA_RETRIES):
                raise DeliveryFailed(f"{refusal} ({refusal.error.name()})")
            if reaction is not Reaction.SKIP:
                again.add(key)
            elif (substitute := self._set_aside(refusal, newest.get(key))) is not None:
                substitutes.append(substitute)
        if again:
            reason = next(each for each in refusals if kafka_reaction(each.error) is not Reaction.SKIP)
            log.warning("%d keys are written again: %s (%s)", len(again), reason, reason.error.name())
            self._pause()
        self._written += substitutes
        return [record for record in self._written if (record.topic, record.key) in again] + [
            each for each in substitutes if (each.topic, each.key) not in again
        ]

    def _set_aside(self, refusal: Refusal, newest: Record | None) -> Record | None:
        record = refusal.record
        REFUSED_RECORDS.add(record.topic)
        is_outdated = newest is not None and newest.value != record.value and is_compacted(record.topic)
        substitute = None if is_outdated else self._substitute(record)
        size = len(record.value or b"")
        log.error(
            "a record of %s bytes is set aside: %s%s",
            *(f"{size:,}", refusal, "" if substitute is None else "; a smaller one is written in its place"),
        )
        return substitute

    def _pause(self) -> None:
        deadline = time.monotonic() + RETRY_S
        while (left_s := deadline - time.monotonic()) > 0:
            self._check()
            time.sleep(min(left_s, 0.1))
