"""`foryou rebuild users`: the state of users in Redis, again from the log.

Nothing is deleted, and what is written joins with what stands there: the result is the same whether Redis was emptied
or not, whether the flows run meanwhile or not, and whether this was stopped and begun again. What the log no longer
holds cannot come back, nor can what was served, which stands in neither topic.
"""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import groupby

import msgspec
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message
from rich.console import Console

from infra.ports.kafka import partitions_of
from infra.ports.redis import Patience, connect
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from infra.terminal.progress import Report
from infra.terminal.tables import moment
from thunder_ingest.events import EngagementEvent, GraphEvent, Refused, decode
from thunder_ingest.users.entries import updates_of
from thunder_ingest.users.redis_form import UserStates

TOPICS = ("social-graph", "engagements")
"""The graph first, so that a block holds before there is a history to recommend from."""


class Rebuilt(msgspec.Struct):
    """What was read and written: `read` = `used` + `refused`."""

    read: int = 0
    used: int = 0
    refused: int = 0
    users: int = 0
    oldest_engagement_at: int | None = None
    """How far back the history reaches, epoch ms; None where no engagement is kept."""
    cut: list[str] = msgspec.field(default_factory=list)
    """The topics whose first messages the log has let go of: what they said stands in Redis or nowhere."""
    seconds: float = 0.0


def run(settings: Settings, err: Console) -> Rebuilt:
    """Read both topics from the beginning to the end that they have now, and write the users' state.

    Args:
        settings: where Kafka and Redis are.
        err: takes the progress.

    Raises:
        BrokerUnreachable, TopicMissing, RedisUnreachable: before anything is written; a server that goes away later is
            waited for, Kafka not longer than half a minute.

    """
    began = time.monotonic()
    partitions_of(settings, TOPICS)
    client = connect(settings)
    logging.getLogger("infra").setLevel(logging.WARNING)  # from here on a server that goes away is waited for
    try:
        rebuilding = _Rebuilding(settings, UserStates(client))
        with Report(err) as report:
            for topic in TOPICS:
                with report.step(f"{topic} is read and written to users") as advance:
                    for messages in scan(settings, [topic], advance):
                        rebuilding.take(messages)
    finally:
        client.close()
    return rebuilding.rebuilt(time.monotonic() - began)


class _Rebuilding:
    def __init__(self, settings: Settings, users: UserStates) -> None:
        self._users, self._tolerance_ms = users, settings.future_tolerance_ms
        self._patience = Patience(settings, threading.Event())
        self._counted = Rebuilt()
        self._written = set[str]()
        self._begun = set[tuple[str, int]]()

    def take(self, messages: list[Message]) -> None:
        """Write what a batch adds, for each partition on its own: only so does its name tell what is in it."""
        for _, part in groupby(sorted(messages, key=_partition), _partition):
            self._write(batch := list(part))
            self._look_for_a_cut(batch[0])

    def rebuilt(self, seconds: float) -> Rebuilt:
        return msgspec.structs.replace(self._counted, users=len(self._written), seconds=round(seconds, 3))

    def _write(self, messages: list[Message]) -> None:
        updates = [update for event in self._events(messages) for update in updates_of(event)]
        first, last = messages[0], messages[-1]
        suffix = f"r{(first.topic() or '')[0]}{first.partition()}-{first.offset()}-{last.offset()}"
        self._patience.run(lambda: self._users.append(updates, suffix))
        self._written.update(update.user for update in updates)

    def _look_for_a_cut(self, first: Message) -> None:
        topic = first.topic() or ""
        if (part := (topic, _partition(first))) not in self._begun:
            self._begun.add(part)
            if first.offset() and topic not in self._counted.cut:
                self._counted.cut.append(topic)

    def _events(self, messages: Iterable[Message]) -> Iterator[EngagementEvent | GraphEvent]:
        for message in messages:
            self._counted.read += 1
            try:
                event = decode(message.topic() or "", message.value())
                if event.at > _arrived_ms(message) + self._tolerance_ms:
                    raise Refused("too far in the future when it came")
            except Refused:  # the flow has made a dead letter of it
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


def _arrived_ms(message: Message) -> int:
    """When a message came, by the broker's word; what a producer says of itself is not asked."""
    kind, at_ms = message.timestamp()
    return at_ms if kind == TIMESTAMP_LOG_APPEND_TIME else time.time_ns() // 1_000_000


def told(rebuilt: Rebuilt) -> str:
    """What was done, in words."""
    refused = f", {rebuilt.refused:,} refused" if rebuilt.refused else ""
    oldest = rebuilt.oldest_engagement_at
    reach = "the log holds no engagement" if oldest is None else f"the history reaches back to {moment(oldest)}"
    lost = ", what was before is no longer in the log"
    history, graph = (lost if topic in rebuilt.cut else "" for topic in ("engagements", "social-graph"))
    whole = f"{rebuilt.users:,} users written from {rebuilt.used:,} events{refused}; {reach}{history}"
    return f"{whole}; the graph is {'not whole' + graph if graph else 'whole'}"
