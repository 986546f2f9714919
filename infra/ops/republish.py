"""`foryou dead-letters --republish`: refused messages once more to the topics they came from, as they are or mended.

A dead letter stays where it is, whatever becomes of its message; so which ones were delivered is remembered in Redis,
since an engagement that is published twice is counted twice.
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
from rich.console import Console, Group

from infra.ops.dead_letter_query import Selection, Sum, identity, newest, select, summary, summary_table
from infra.ops.message_fix import Fix
from infra.ops.replay.raw_producer import STALLED_S
from infra.ports.kafka import partitions_of, producer_config
from infra.ports.outage import outage
from infra.ports.redis import Client, Patience, connect
from infra.ports.settings import Settings
from infra.ports.topics import DAY_MS, INPUTS
from infra.terminal.progress import Report
from infra.terminal.tables import counts_table, plain
from thunder_ingest.events import DeadLetter, Refused

LEDGER = "foryou:republished"
KEPT_MS = 30 * DAY_MS
"""As long as dead letters are."""
CHUNK = 1_000
NAMED = 20


@dataclass(slots=True)
class Chosen:
    """What is to be republished; `marks` are the `identity` of each."""

    marks: set[bytes] = field(default_factory=set)
    delivered_before: int = 0
    sums: list[Sum] = field(default_factory=list)


class Unusable(msgspec.Struct):
    """A message that was not published, and why."""

    topic: str
    partition: int
    offset: int
    reason: str


class Republished(msgspec.Struct):
    """What became of them: `selected` = `delivered` + `unusable` + `unpublished` + `gone`."""

    selected: int
    delivered_before: int
    """Left out, and not among the selected."""
    delivered: int = 0
    unusable: list[Unusable] = []
    unpublished: dict[str, int] = {}
    """Messages that Kafka itself would not take, by reason."""
    gone: int = 0
    """Dead letters that the topic let go of meanwhile."""

    @property
    def is_whole(self) -> bool:
        """Whether every message that was selected is delivered."""
        return self.delivered == self.selected


class Ledger:
    """Which dead letters were delivered once more, in Redis, for as long as there are any."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self._client, self._patience = client, Patience(settings, threading.Event())

    def delivered(self) -> set[bytes]:
        """The `identity` of each dead letter whose message was delivered again."""
        return set(cast(Iterable[bytes], self._client.zrange(LEDGER, 0, -1)))

    def add(self, marks: Iterable[bytes]) -> None:
        """Remember messages as delivered."""
        now_ms = time.time_ns() // 1_000_000
        if added := dict.fromkeys(marks, now_ms):
            self._patience.run(lambda: self._client.zadd(LEDGER, added))
            self._patience.run(lambda: self._client.zremrangebyscore(LEDGER, "-inf", now_ms - KEPT_MS))


def run(
    settings: Settings,
    selection: Selection,
    *,
    limit: int | None,
    fix: Fix,
    again: bool,
    confirm: Callable[[Chosen], bool],
    err: Console,
) -> Republished | None:
    """Choose dead letters, ask, and publish what is in them.

    Args:
        settings: where Kafka and Redis are.
        selection: which are meant.
        limit: of these the newest so many; None: all.
        fix: what is changed in each.
        again: those delivered before as well.
        confirm: is told what was chosen; nothing is published where it says no, and then there is no result.
        err: takes the progress.

    Raises:
        BrokerUnreachable, TopicMissing, RedisUnreachable: before anything is published; a server that goes away later
            is waited for.

    """
    partitions_of(settings, INPUTS)
    client = connect(settings)
    try:
        ledger = Ledger(settings, client)
        with Report(err) as report, report.step("dead-letters is read") as advance:
            letters = select(settings, selection, advance)
            chosen = _choose(letters, limit, set() if again else ledger.delivered())
        if not chosen.marks or not confirm(chosen):
            return None if chosen.marks else Republished(0, chosen.delivered_before)
        logging.getLogger("infra").setLevel(logging.WARNING)  # from here on a server that goes away is waited for
        with Report(err) as report, report.step("messages are published") as advance:
            return _publish(settings, chosen, select(settings, selection, advance), fix, ledger)
    finally:
        client.close()


def _choose(letters: Iterable[DeadLetter], limit: int | None, delivered: set[bytes]) -> Chosen:
    chosen = Chosen()

    def fresh() -> Iterator[DeadLetter]:
        for letter in letters:
            if identity(letter) in delivered:
                chosen.delivered_before += 1
            else:
                yield letter

    def noted(meant: Iterable[DeadLetter]) -> Iterator[DeadLetter]:
        for letter in meant:
            chosen.marks.add(identity(letter))
            yield letter

    chosen.sums = summary(noted(fresh() if limit is None else newest(fresh(), limit)))
    return chosen


def _publish(
    settings: Settings, chosen: Chosen, letters: Iterable[DeadLetter], fix: Fix, ledger: Ledger
) -> Republished:
    """Publish what was chosen, and only that: what is refused once more meanwhile is not taken up."""
    latest_ms = time.time_ns() // 1_000_000 + settings.future_tolerance_ms
    courier, unusable, left = _Courier(settings, ledger), list[Unusable](), set(chosen.marks)
    for letter in letters:
        if (mark := identity(letter)) not in left:
            continue
        left.discard(mark)
        try:
            courier.send(mark, letter.topic, *fix.apply(letter, latest_ms))
        except Refused as reason:
            unusable.append(Unusable(letter.topic, letter.partition, letter.offset, str(reason)))
    courier.settle()
    return Republished(
        selected=len(chosen.marks),
        delivered_before=chosen.delivered_before,
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


def question(chosen: Chosen, err: Console) -> str:
    """What to ask, once `err` shows what it is about."""
    err.print(summary_table(chosen.sums))
    before = f" ({chosen.delivered_before:,} were delivered before and are left out)" if chosen.delivered_before else ""
    return f"Publish these {len(chosen.marks):,} messages again{before}?"


def view(answer: Republished) -> Group:
    """What became of them, on a terminal."""
    counts = {
        "selected": answer.selected,
        "delivered": answer.delivered,
        "unusable": len(answer.unusable),
        "not taken by Kafka": sum(answer.unpublished.values()),
        "no longer there": answer.gone,
        "left out, delivered before": answer.delivered_before,
    }
    rows = [
        f"{each.topic}[{each.partition}] at offset {each.offset}: {each.reason}" for each in answer.unusable[:NAMED]
    ]
    rows += [f"{reason}: {count:,}" for reason, count in answer.unpublished.items()]
    return Group(counts_table("messages", counts), *map(plain, rows))
