"""Writes the records of a process. A record that cannot be written is never the end of the process."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Final, TypeAlias

from infra.ports.error_table import KAFKA_RETRIES, Reaction, kafka_reaction
from infra.ports.errors import DeliveryFailed
from infra.ports.process_metrics import KAFKA_ERRORS, REFUSED_RECORDS
from infra.ports.producer import KafkaProducer, Record, Refusal
from infra.ports.settings import Settings
from infra.ports.topics import is_compacted

log = logging.getLogger(__name__)

RETRY_S: Final = 0.5
"""The pause before records are written again."""


_Content: TypeAlias = tuple[str, bytes | None, bytes | None]


def _content(record: Record) -> _Content:
    """The identity of a record: a delivery report has a copy of the record, not the record itself."""
    return record.topic, record.key, record.value


def _without(records: Sequence[Record], left_out: Counter[_Content]) -> list[Record]:
    """The records, without one for each count of `left_out`."""
    rest, kept = left_out.copy(), list[Record]()
    for record in records:
        if rest[_content(record)] > 0:
            rest[_content(record)] -= 1
        else:
            kept.append(record)
    return kept


class RecordWriter:
    """Writes records, and waits for their delivery. The table of errors decides the reaction to each refusal.

    WAIT, or an error that is not in the table: the record is written again. In a compacted topic the later records of
    its key follow, so that the newest record of a key stays the last one. SKIP: the record is set aside, with a line in
    the log and a metric; its substitute is written, unless a compacted topic has a newer record of its key. END:
    `deliver` raises.

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
        waiting, set_aside, substitutes = list[Refusal](), Counter[_Content](), list[Record]()
        for refusal in refusals:
            key = refusal.topic, refusal.record.key
            KAFKA_ERRORS.add(refusal.error.name())
            reaction = kafka_reaction(refusal.error)
            if reaction is Reaction.END or (reaction is None and attempt >= KAFKA_RETRIES):
                raise DeliveryFailed(f"{refusal} ({refusal.error.name()})")
            if reaction is not Reaction.SKIP:
                waiting.append(refusal)
                continue
            set_aside[_content(refusal.record)] += 1
            if (substitute := self._set_aside(refusal, newest.get(key))) is not None:
                substitutes.append(substitute)
        if waiting:
            log.warning("%d records are written again: %s (%s)", len(waiting), waiting[0], waiting[0].error.name())
            self._pause()
        self._written = _without(self._written, set_aside)
        again = self._again([refusal.record for refusal in waiting])
        self._written += substitutes
        return again + substitutes

    def _again(self, records: Sequence[Record]) -> list[Record]:
        """The records to write again: in compacted topics, each with the later ones of its key."""
        places = dict[_Content, int]()
        for place, record in enumerate(self._written):
            places.setdefault(_content(record), place)
        first = dict[tuple[str, bytes | None], int]()
        for record in records:
            if is_compacted(record.topic):
                key, place = (record.topic, record.key), places.get(_content(record), 0)
                first[key] = min(place, first.get(key, place))
        later = [
            record
            for place, record in enumerate(self._written)
            if place >= first.get((record.topic, record.key), len(self._written))
        ]
        return [record for record in records if not is_compacted(record.topic)] + later

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
