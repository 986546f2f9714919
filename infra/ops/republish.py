"""Publish the messages in dead letters to their topics again, unchanged or with replaced fields.

A dead letter stays in its topic. A ledger in Redis holds the ones whose messages were delivered again, so that a second
call publishes only the others.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

import msgspec
from rich.console import Console

from infra.ops.dead_letter_query import LetterFilter, ReasonCount, identity, newest, reason_counts, select
from infra.ops.message_fix import Fix
from infra.ports.clock import DAY_MS, now_ms
from infra.ports.consumer import partitions_of
from infra.ports.producer import KafkaProducer, Record
from infra.ports.redis import Client, RedisRetry, connect
from infra.ports.settings import Settings
from infra.ports.topics import INPUTS
from infra.terminal.progress import ProgressReport
from thunder_ingest.events import DeadLetter, Refused

LEDGER = "foryou:republished"
KEPT_MS = 30 * DAY_MS
"""Retention of the topic dead-letters."""
CHUNK = 1_000


@dataclass(slots=True)
class RepublishPlan:
    """The messages to republish; `marks` has the `identity` of each dead letter."""

    marks: set[bytes] = field(default_factory=set)
    delivered_before: int = 0
    reasons: list[ReasonCount] = field(default_factory=list)


class UnusableMessage(msgspec.Struct):
    """A message that was not published, and the reason."""

    topic: str
    partition: int
    offset: int
    reason: str


class RepublishResult(msgspec.Struct):
    """The result: `selected` = `delivered` + `unusable` + `unpublished` + `gone`."""

    selected: int
    delivered_before: int
    """Left out; not part of `selected`."""
    delivered: int = 0
    unusable: list[UnusableMessage] = []
    unpublished: dict[str, int] = {}
    """Messages that Kafka refused, by reason."""
    gone: int = 0
    """Dead letters that expired from the topic during the run."""

    @property
    def is_whole(self) -> bool:
        """True if every selected message was delivered."""
        return self.delivered == self.selected


class Ledger:
    """The set of dead letters whose messages were delivered again; stored in Redis for 30 days."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self._client, self._redis_retry = client, RedisRetry(settings, threading.Event())

    def delivered(self) -> set[bytes]:
        """The `identity` of each dead letter in the ledger."""
        return set(cast(Iterable[bytes], self._client.zrange(LEDGER, 0, -1)))

    def add(self, marks: Iterable[bytes]) -> None:
        """Add delivered messages; waits while Redis is away."""
        delivered_ms = now_ms()
        if added := dict.fromkeys(marks, delivered_ms):
            self._redis_retry.run(lambda: self._client.zadd(LEDGER, added))
            self._redis_retry.run(lambda: self._client.zremrangebyscore(LEDGER, "-inf", delivered_ms - KEPT_MS))


def run(
    settings: Settings,
    wanted: LetterFilter,
    *,
    limit: int | None,
    fix: Fix,
    again: bool,
    confirm: Callable[[RepublishPlan], bool],
    err: Console,
) -> RepublishResult | None:
    """Select dead letters, confirm, and publish their messages.

    Args:
        settings: addresses of Kafka and Redis.
        wanted: conditions on the dead letters.
        limit: maximum number of messages, the newest; None: no limit.
        fix: replaced fields of each message.
        again: include messages that were delivered before.
        confirm: receives the plan; if it returns False, nothing is published and the result is None.
        err: console for the progress.

    Raises:
        BrokerUnreachable, TopicMissing, RedisUnreachable: before the first message is published. Later the call waits
            until the server is back.

    """
    partitions_of(settings, INPUTS)
    client = connect(settings)
    try:
        ledger = Ledger(settings, client)
        with ProgressReport(err) as report, report.step("read dead-letters") as advance:
            letters = select(settings, wanted, advance)
            plan = _plan(letters, limit, set() if again else ledger.delivered())
        if not plan.marks or not confirm(plan):
            return None if plan.marks else RepublishResult(0, plan.delivered_before)
        logging.getLogger("infra").setLevel(logging.WARNING)  # an outage from here on is waited for, and logged
        with ProgressReport(err) as report, report.step("publish messages") as advance:
            return _publish(settings, plan, select(settings, wanted, advance), fix, ledger)
    finally:
        client.close()


def _plan(letters: Iterable[DeadLetter], limit: int | None, delivered: set[bytes]) -> RepublishPlan:
    plan = RepublishPlan()

    def undelivered() -> Iterator[DeadLetter]:
        for letter in letters:
            if identity(letter) in delivered:
                plan.delivered_before += 1
            else:
                yield letter

    def marked(selected: Iterable[DeadLetter]) -> Iterator[DeadLetter]:
        for letter in selected:
            plan.marks.add(identity(letter))
            yield letter

    plan.reasons = reason_counts(marked(undelivered() if limit is None else newest(undelivered(), limit)))
    return plan


def _publish(
    settings: Settings, plan: RepublishPlan, letters: Iterable[DeadLetter], fix: Fix, ledger: Ledger
) -> RepublishResult:
    """Publish the messages of the plan only; messages that are refused during the run are not added."""
    latest_ms = now_ms() + settings.future_tolerance_ms
    republisher, unusable, left = _Republisher(settings, ledger), list[UnusableMessage](), set(plan.marks)
    for letter in letters:
        if (mark := identity(letter)) not in left:
            continue
        left.discard(mark)
        try:
            republisher.send(mark, Record(letter.topic, *fix.apply(letter, latest_ms)))
        except Refused as reason:
            unusable.append(UnusableMessage(letter.topic, letter.partition, letter.offset, str(reason)))
    republisher.finish()
    return RepublishResult(
        selected=len(plan.marks),
        delivered_before=plan.delivered_before,
        delivered=republisher.delivered,
        unusable=unusable,
        unpublished=dict(republisher.refused),
        gone=len(left),
    )


class _Republisher:
    """Publishes messages and records the delivered ones in the ledger, chunk by chunk."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._producer, self._ledger = KafkaProducer(settings, on_delivered=self._on_delivered), ledger
        self._sent, self._delivered = 0, list[bytes]()
        self.delivered = 0

    @property
    def refused(self) -> Counter[str]:
        """The numbers of messages that Kafka refused, by topic and reason."""
        return Counter(map(str, self._producer.refusals))

    def send(self, mark: bytes, record: Record) -> None:
        self._producer.send(record, mark)
        self._sent += 1
        if self._sent % CHUNK == 0:
            self.finish()

    def finish(self) -> None:
        """Wait until all is delivered or refused, and record the delivered messages."""
        self._producer.drain()
        self._ledger.add(self._delivered)
        self.delivered += len(self._delivered)
        self._delivered.clear()

    def _on_delivered(self, mark: bytes, _topic: str, _partition: int, _offset: int) -> None:
        self._delivered.append(mark)
