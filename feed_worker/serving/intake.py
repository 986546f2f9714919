"""The worker's end of `feed-requests`: messages in, offsets out, and what a rebalance means for both.

Offsets are committed in the order of each partition and only as far as every message before them is answered, in
whichever order that happens. When partitions are taken away, what is under way is waited for and committed first, so
that the next owner begins behind it; what is merely in hand is let go, the next owner reads it. Should that wait be cut
short, or the partitions be lost without a word, requests are computed twice, and the ledger in Redis answers them once.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import Final, NamedTuple

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, Message, TopicPartition

from feed_worker.serving.request_queue import MessageOffset, Partition, ReceivedRequest
from infra.ports.clock import Clock
from infra.ports.kafka import Record, consumer_config, group
from infra.ports.outage import outage
from infra.ports.settings import Settings
from thunder_ingest.events import FeedRequest, Refused, decode
from thunder_ingest.events.dead_letters import dead_letter

log = logging.getLogger(__name__)

TOPIC: Final = "feed-requests"
LAG_EACH_S: Final = 1.0
MAX_POLL_MS: Final = 60_000
"""A worker that takes nothing for so long, its Redis away, is counted out; until then no rebalance ends."""
_REBALANCED: Final = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._NO_OFFSET,
}
_OUT_OF_TOUCH: Final = {KafkaError._TRANSPORT, KafkaError._TIMED_OUT}
"""The broker went while a consumer asked how far its partitions are: librdkafka says so, and does not ask again."""


class DeadLetterRecord(NamedTuple):
    """A message that is no request: its dead each, and where it stood."""

    record: Record
    place: MessageOffset


class Offsets:
    """Which messages of each partition are taken and not yet done; for any thread."""

    def __init__(self) -> None:
        self._open: dict[Partition, deque[int]] = {}
        self._done: dict[Partition, set[int]] = {}
        self._lock = threading.Lock()

    def taken(self, places: Iterable[MessageOffset]) -> None:
        """Messages were taken, in the order of each partition."""
        with self._lock:
            for part, offset in places:
                self._open.setdefault(part, deque()).append(offset)

    def done(self, places: Iterable[MessageOffset]) -> dict[Partition, int]:
        """Messages are done with.

        Returns:
            for each partition that has come forward by it, the offset to commit: the first that is not done.

        """
        with self._lock:
            for part, offset in places:
                self._done.setdefault(part, set()).add(offset)
            return {part: next_ for part in list(self._done) if (next_ := self._forward(part))}

    def forget(self, parts: Iterable[Partition]) -> None:
        """Partitions are another worker's now."""
        with self._lock:
            for part in parts:
                self._open.pop(part, None)
                self._done.pop(part, None)

    def first_open(self, part: Partition) -> int | None:
        """The first message of a partition that is taken and not done."""
        with self._lock:
            waiting = self._open.get(part)
            return waiting[0] if waiting else None

    def _forward(self, part: Partition) -> int:
        waiting, done = self._open.get(part, deque()), self._done[part]
        next_ = 0
        while waiting and waiting[0] in done:
            next_ = waiting.popleft() + 1
            done.remove(next_ - 1)
        if not waiting:
            del self._done[part]  # what is left was taken before a rebalance, and is nobody's to commit
        return next_


class Intake:
    """A member of the workers' group. All but `done` belong to the thread that takes.

    Args:
        settings: of the worker.
        clock: is told the times of requests.
        assigned: called once partitions are assigned.
        finish: called before partitions go: waits, for a limited time, until what was taken is done.

    """

    def __init__(
        self, settings: Settings, clock: Clock, assigned: Callable[[], None], finish: Callable[[], None]
    ) -> None:
        self._settings, self._clock, self._assigned, self._finish = settings, clock, assigned, finish
        self._offsets = Offsets()
        self._due: SimpleQueue[dict[Partition, int]] = SimpleQueue()
        self._revoked: set[Partition] = set()
        self._outage = outage("Kafka", settings.kafka)
        self._lag_at = 0.0
        self.lag: dict[int, int] = {}
        self._consumer = self._joined()

    def _joined(self) -> Consumer:
        options = consumer_config(self._settings, group(self._settings, "feed-worker"))
        options["max.poll.interval.ms"] = max(MAX_POLL_MS, self._settings.session_timeout_ms)
        consumer = Consumer(options | {"on_commit": self._on_commit})
        consumer.subscribe(
            [TOPIC],
            on_assign=lambda *_: self._assigned(),
            on_revoke=lambda _, parts: self._on_revoke(parts),
            on_lost=lambda _, parts: self._on_lost(parts),
        )
        return consumer

    def _join_anew(self, reason: str) -> None:
        """As another member of the group, which is told where its partitions stand; what was taken is let go."""
        self._outage.begins(reason)
        parts = self._consumer.assignment()
        self._consumer.close()
        self._on_lost(parts)
        self._consumer = self._joined()

    def take(self, limit: int, wait_s: float) -> tuple[list[ReceivedRequest], list[DeadLetterRecord], set[Partition]]:
        """Take what is there; waits only while nothing is.

        Returns:
            requests, what is none, and the partitions that were taken away meanwhile: what was taken of them before
            is to be let go.

        """
        self._commit(asynchronous=True)
        messages, gone = self._polled(limit, wait_s)
        usable = _usable(messages)
        self._offsets.taken(map(message_offset, usable))
        self._look_at_lag()
        return *self._decoded(usable), gone

    def _polled(self, limit: int, wait_s: float) -> tuple[list[Message], set[Partition]]:
        """One by one: only so it is known what came before a partition was taken away, and what after it came back."""
        messages: list[Message] = []
        gone: set[Partition] = set()
        while len(messages) < limit:
            self._revoked = set()
            message = self._consumer.poll(0 if messages else wait_s)
            error = None if message is None else message.error()
            if error is not None and error.code() in _OUT_OF_TOUCH:
                self._join_anew(error.str())
                message = None
            if self._revoked:
                messages = [each for each in messages if message_offset(each).part not in self._revoked]
                gone |= self._revoked
            if message is None:
                break
            messages.append(message)
        return messages, gone

    def done(self, places: Iterable[MessageOffset]) -> None:
        """These are done: how far that brings their partitions is committed soon. For any thread."""
        if forward := self._offsets.done(places):
            self._due.put(forward)

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _commit(self, *, asynchronous: bool) -> None:
        """Commit how far partitions have come.

        By the thread that takes alone: while that is in a callback, what another thread asks of the consumer waits for
        the callback, and the callback for that thread.
        """
        forward: dict[Partition, int] = {}
        while not self._due.empty():
            for part, offset in self._due.get().items():
                forward[part] = max(offset, forward.get(part, 0))
        if not forward:
            return
        offsets = [TopicPartition(*part, offset) for part, offset in forward.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=asynchronous)  # type: ignore[call-overload]  # either
        except KafkaException as error:
            self._on_commit(error.args[0], offsets)

    def _on_commit(self, error: KafkaError | None, offsets: Sequence[TopicPartition]) -> None:
        if error is None:
            self._outage.ends()
        elif error.code() in _REBALANCED:
            log.warning("requests went to another worker before they were committed: %s", error.str())
        else:
            self._outage.begins(error.str())
            self._due.put({(each.topic, each.partition): each.offset for each in offsets})

    def _on_revoke(self, parts: Sequence[TopicPartition]) -> None:
        self._finish()
        self._commit(asynchronous=False)
        self._on_lost(parts)

    def _on_lost(self, parts: Sequence[TopicPartition]) -> None:
        gone = {(part.topic, part.partition) for part in parts}
        self._revoked |= gone
        self._offsets.forget(gone)
        self._due = SimpleQueue()
        self.lag = {}

    def _decoded(self, messages: Sequence[Message]) -> tuple[list[ReceivedRequest], list[DeadLetterRecord]]:
        taken: list[ReceivedRequest] = []
        dead_letters: list[DeadLetterRecord] = []
        now_ms = time.time_ns() // 1_000_000
        for message in messages:
            try:
                request: FeedRequest = decode(TOPIC, message.value())
                if request.at > now_ms + self._settings.future_tolerance_ms:
                    raise Refused("`at` is too far in the future - at `$.at`")
            except Refused as reason:
                dead_letters.append(DeadLetterRecord(dead_letter(message, reason), message_offset(message)))
            else:
                kind, arrived_ms = message.timestamp()
                known = kind != TIMESTAMP_NOT_AVAILABLE
                taken.append(
                    ReceivedRequest(request, min(arrived_ms, now_ms) if known else now_ms, message_offset(message))
                )
                self._clock.observe(request.at)
        return taken, dead_letters

    def _look_at_lag(self) -> None:
        if time.monotonic() - self._lag_at < LAG_EACH_S:
            return
        self._lag_at = time.monotonic()
        positions = self._consumer.position(self._consumer.assignment())
        self.lag = {part.partition: lag for part in positions if (lag := self._lag_of(part)) is not None}

    def _lag_of(self, position: TopicPartition) -> int | None:
        _, end = self._consumer.get_watermark_offsets(position, cached=True)
        first = self._offsets.first_open((position.topic, position.partition))
        next_ = position.offset if first is None else first
        return max(0, end - next_) if next_ >= 0 and end >= 0 else None


def message_offset(message: Message) -> MessageOffset:
    """Where a message stands."""
    return MessageOffset((message.topic() or "", message.partition() or 0), message.offset() or 0)


def _usable(messages: Sequence[Message]) -> list[Message]:
    for error in filter(None, (message.error() for message in messages)):
        # a Redis that is away for minutes keeps the worker from taking; its partitions are lost, and it joins again
        if not error.retriable() and error.code() != KafkaError._MAX_POLL_EXCEEDED:
            raise KafkaException(error)
    return [message for message in messages if message.error() is None]
