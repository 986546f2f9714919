"""Publish the messages in dead letters to their topics again, unchanged or with replaced fields.

A dead letter stays in its topic. A ledger in Redis holds the ones whose messages were delivered again, because an
engagement that is published twice counts twice.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from rich.console import Console

from infra.ops.dead_letter_query import LetterFilter, ReasonCount, identity, newest, reason_counts, select
from infra.ops.message_fix import Fix
from infra.ops.replay.raw_producer import STALLED_S
from infra.ports.kafka import partitions_of, producer_config
from infra.ports.outage import outage
from infra.ports.redis import Client, Patience, connect
from infra.ports.settings import Settings
from infra.ports.topics import DAY_MS, INPUTS
from infra.terminal.progress import Report
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
        self._client, self._patience = client, Patience(settings, threading.Event())

    def delivered(self) -> set[bytes]:
        """The `identity` of each dead letter in the ledger."""
        return set(cast(Iterable[bytes], self._client.zrange(LEDGER, 0, -1)))

    def add(self, marks: Iterable[bytes]) -> None:
        """Add delivered messages; waits while Redis is away."""
        now_ms = time.time_ns() // 1_000_000
        if added := dict.fromkeys(marks, now_ms):
            self._patience.run(lambda: self._client.zadd(LEDGER, added))
            self._patience.run(lambda: self._client.zremrangebyscore(LEDGER, "-inf", now_ms - KEPT_MS))


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
        with Report(err) as report, report.step("read dead-letters") as advance:
            letters = select(settings, wanted, advance)
            plan = _plan(letters, limit, set() if again else ledger.delivered())
        if not plan.marks or not confirm(plan):
            return None if plan.marks else RepublishResult(0, plan.delivered_before)
        logging.getLogger("infra").setLevel(logging.WARNING)  # an outage from here on is waited for, and logged
        with Report(err) as report, report.step("publish messages") as advance:
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
    latest_ms = time.time_ns() // 1_000_000 + settings.future_tolerance_ms
    courier, unusable, left = _Courier(settings, ledger), list[UnusableMessage](), set(plan.marks)
    for letter in letters:
        if (mark := identity(letter)) not in left:
            continue
        left.discard(mark)
        try:
            courier.send(mark, letter.topic, *fix.apply(letter, latest_ms))
        except Refused as reason:
            unusable.append(UnusableMessage(letter.topic, letter.partition, letter.offset, str(reason)))
    courier.settle()
    return RepublishResult(
        selected=len(plan.marks),
        delivered_before=plan.delivered_before,
        delivered=courier.delivered,
        unusable=unusable,
        unpublished=dict(courier.unpublished),
        gone=len(left),
    )


class _Courier:
    """Delivers messages and remembers each, chunk by chunk, as soon as Kafka has it."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._producer, self._ledger = Producer(producer_config(settings)), ledger
        self._outage = outage("Kafka", settings.kafka)
        self._handed_over, self._taken = 0, list[bytes]()
        self.delivered = 0
        self.unpublished: Counter[str] = Counter()

    def send(self, mark: bytes, topic: str, key: bytes | None, value: bytes | None) -> None:
        try:
            self._producer.produce(topic, key=key, value=value, on_delivery=partial(self._on_delivery, mark))
        except KafkaException as error:  # larger than the client allows
            self.unpublished[f"{topic}: {error.args[0].str()}"] += 1
        self._handed_over += 1
        if self._handed_over % CHUNK == 0:  # far fewer than the producer's queue takes
            self.settle()

    def settle(self) -> None:
        """Wait until all is delivered or refused, and remember what is delivered."""
        while waiting := self._producer.flush(STALLED_S):
            self._outage.begins(f"{waiting} messages wait")
        self._outage.ends()
        self._ledger.add(self._taken)
        self.delivered += len(self._taken)
        self._taken.clear()

    def _on_delivery(self, mark: bytes, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._taken.append(mark)
        else:
            self.unpublished[f"{message.topic()}: {error.str()}"] += 1
