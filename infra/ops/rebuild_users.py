"""Rebuild the users' state in Redis from the log.

The rebuild deletes nothing and joins its writes with the stored state. So the result is the same if Redis was empty, if
the flows run at the same time, and if a rebuild was interrupted and started again. Two things do not come back: events
that the log no longer holds, and served posts, which neither topic has.

At its end it declares the users of the log whole, except those whose hash was lost meanwhile. A registered user without
an event in the log has an empty state from then on. If the register of users itself was damaged, no user is served
before the end. If Redis goes back in time during the rebuild, it ends with an error: see `users.positions`.
"""

import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Final

import msgspec
from confluent_kafka import Message
from rich.console import Console

from infra.ports.clock import now_ms
from infra.ports.consumer import arrived_ms
from infra.ports.errors import StateMissing
from infra.ports.kafka_admin import ends_of
from infra.ports.redis import Client, RedisRetry, connect
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from infra.terminal.progress import ProgressReport
from thunder_ingest.events import EngagementEvent, GraphEvent, Refused, count_from_arrival, decode
from thunder_ingest.users.entries import UserEntries, entries_by_user
from thunder_ingest.users.positions import Positions, Span
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import UserRegister

TOPICS = ("social-graph", "engagements")
"""The graph comes first, so that blocks apply before a history exists."""

CHUNK: Final = 1_000
LOST: Final = "Redis has lost keys during the rebuild: run `foryou doctor`, then rebuild again"


class RebuildResult(msgspec.Struct):
    """Counts of messages and users: `read` = `used` + `refused`."""

    read: int = 0
    used: int = 0
    refused: int = 0
    users: int = 0
    oldest_engagement_at: int | None = None
    """Time of the oldest engagement in the log, epoch ms; None if the log has none."""
    skipped: int = 0
    """Users whose key in Redis holds a value of another type: delete these keys, and rebuild again."""
    cut: list[str] = msgspec.field(default_factory=list)
    """The topics whose first messages have expired from the log."""
    seconds: float = 0.0


def run(settings: Settings, err: Console) -> RebuildResult:
    """Read both topics from the beginning to their current end, and write the users' state.

    Args:
        settings: addresses of Kafka and Redis.
        err: console for the progress.

    Raises:
        BrokerUnreachable, TopicMissing, RedisUnreachable: before the first write. During a later outage the call waits:
            for Redis without limit, for Kafka at most 30 seconds.
        StateMissing: Redis has lost keys during the rebuild.

    """
    began = time.monotonic()
    ends = ends_of(settings, TOPICS)
    client = connect(settings)
    logging.getLogger("infra").setLevel(logging.WARNING)  # an outage from here on is waited for, and logged
    try:
        rebuild = _Rebuild(settings, client, ends)
        with ProgressReport(err) as report:
            for topic in TOPICS:
                with report.step(f"read {topic}, write users") as advance:
                    for messages in scan(settings, [topic], advance):
                        rebuild.take(messages)
            rebuild.finish()
    finally:
        client.close()
    return rebuild.result(time.monotonic() - began)


class _Rebuild:
    def __init__(self, settings: Settings, client: Client, ends: dict[tuple[str, int], int]) -> None:
        self._users, self._register = UserStates(client), UserRegister(client)
        self._tolerance_ms = settings.future_tolerance_ms
        self._redis_retry = RedisRetry(settings, threading.Event(), client)
        self._id = uuid.uuid4().hex
        self._is_damaged = self._redis_retry.run(self._register.is_damaged)
        if self._is_damaged:
            self._redis_retry.run(lambda: self._register.reopen(self._id))
        self._lost = self._redis_retry.run(self._register.users_not_whole)
        for chunk in _chunks(self._lost):
            self._redis_retry.run(partial(self._register.start_rebuilt, chunk, self._id))
        self._counted = RebuildResult()
        self._written = set[str]()
        self._positions, self._writes = Positions(client), 0
        self._part = f"rebuild-{self._id}"
        self._ends = ends
        self._started = set[tuple[str, int]]()

    def take(self, messages: Sequence[Message]) -> None:
        """Write a batch, each partition on its own: the name of a write is its partition and offsets."""
        for _, part in groupby(sorted(messages, key=_partition), _partition):
            self._write(batch := list(part))
            self._note_bounds(batch)

    def finish(self) -> None:
        """Declare the state of the users of the log, and of registered users without events in it, whole."""
        run = self._redis_retry.run
        self._check(None)
        settled = 0
        for chunk in _chunks(sorted(self._written)):
            settled += run(partial(self._register.settle_rebuilt, chunk, self._id))
        self._counted.skipped = len(self._written) - settled
        for chunk in _chunks([user for user in self._lost if user not in self._written]):
            run(partial(self._register.settle_rebuilt, chunk, self._id))
        run(self._store_ends)
        if self._is_damaged and not run(lambda: self._register.end_build(self._id)):
            raise StateMissing(LOST)
        try:
            self._check(None)
        except StateMissing:  # hashes may have been declared whole that are not
            run(self._register.withdraw)
            raise
        if run(self._register.mark) is None:
            raise StateMissing(LOST)
        run(lambda: self._positions.delete(self._part))

    def result(self, seconds: float) -> RebuildResult:
        return msgspec.structs.replace(self._counted, users=len(self._written), seconds=round(seconds, 3))

    def _write(self, messages: Sequence[Message]) -> None:
        first, last = messages[0], messages[-1]
        suffix = f"r{(first.topic() or '')[0]}{first.partition()}-{first.offset()}-{last.offset()}"
        entries = entries_by_user(self._events(messages))
        new = [user for user in entries if user not in self._written]
        self._redis_retry.run(lambda: self._register.start_rebuilt(new, self._id))
        self._check(entries, suffix)
        self._written.update(new)

    def _check(self, entries: UserEntries | None, suffix: str = "") -> None:
        """Write entries, if any; raises StateMissing if Redis lacks earlier writes of this rebuild."""
        after = self._writes + (entries is not None)
        span = Span(self._part, self._writes, after)
        replies = self._redis_retry.run(lambda: self._users.write(entries or {}, suffix, self._positions.advance(span)))
        if self._positions.stored(span, replies) is not None:
            raise StateMissing(LOST)
        self._writes = after

    def _store_ends(self) -> None:
        """Store the positions that the flow would have: Redis has the log up to these ends."""
        for (topic, part), end in self._ends.items():
            self._users.write({}, "", self._positions.advance(Span(f"{topic}-{part}", 0, end)))

    def _note_bounds(self, batch: Sequence[Message]) -> None:
        first, topic = batch[0], batch[0].topic() or ""
        if (part := (topic, _partition(first))) not in self._started:
            self._started.add(part)
            if first.offset() and topic not in self._counted.cut:
                self._counted.cut.append(topic)
        self._ends[part] = max(self._ends.get(part, 0), (batch[-1].offset() or 0) + 1)

    def _events(self, messages: Iterable[Message]) -> Iterator[EngagementEvent | GraphEvent]:
        for message in messages:
            self._counted.read += 1
            try:
                event = decode(message.topic() or "", message.value())
                arrival_ms = arrived_ms(message, event.at, self._tolerance_ms, now_ms())
                count_from_arrival(event, arrival_ms, self._tolerance_ms)
            except Refused:  # the flow has written a dead letter for it
                self._counted.refused += 1
            else:
                self._note(event)
                yield event

    def _note(self, event: EngagementEvent | GraphEvent) -> None:
        self._counted.used += 1
        oldest = self._counted.oldest_engagement_at
        if isinstance(event, EngagementEvent) and (oldest is None or event.at < oldest):
            self._counted.oldest_engagement_at = event.at


def _partition(message: Message) -> int:
    return message.partition() or 0


def _chunks(users: Sequence[str]) -> Iterator[Sequence[str]]:
    return (users[first : first + CHUNK] for first in range(0, len(users), CHUNK))
