"""The consumer of `feed-requests`: receives requests, commits offsets, and handles rebalances.

The offset of a partition is committed only as far as every message before it is answered; the answers may come in any
order. Before partitions are revoked, the batches in flight are finished and committed, so the next owner starts after
them. Requests that are still queued are dropped here and read by the next owner. If the wait for the batches is cut
short, or partitions are lost without a callback, some requests are computed twice. The ledger in Redis then keeps the
first answer.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from feed_worker.serving.arrivals import Arrivals
from feed_worker.serving.offsets import MessageOffset, Offsets, Partition
from feed_worker.serving.request_queue import ReceivedRequest
from infra.ports.clock import now_ms
from infra.ports.consumer import arrived_ms, usable_messages
from infra.ports.kafka_config import consumer_config, group
from infra.ports.outage import outage
from infra.ports.producer import Record
from infra.ports.settings import Settings
from thunder_ingest.events import FeedRequest, Refused, count_from_arrival, decode, readable_request
from thunder_ingest.events.dead_letters import dead_letter
from thunder_ingest.events.ids import published_form

log = logging.getLogger(__name__)

TOPIC: Final = "feed-requests"
LAG_EACH_S: Final = 1.0
"""The interval between two updates of `lag`."""

FETCH_WAIT_MS: Final = 50  # viewers wait for these fetches
MAX_POLL_MS: Final = 60_000
"""Kafka evicts a worker that does not poll for so long, as while Redis is away. A rebalance waits until then."""

_REBALANCED: Final = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._NO_OFFSET,
}
_OFFSETS_UNKNOWN: Final = {KafkaError._TRANSPORT, KafkaError._TIMED_OUT}
"""The broker went away during the query of the committed offsets. librdkafka reports that and does not retry."""


class DeadLetterRecord(NamedTuple):
    """A message that is no valid request: the record for `dead-letters`, its place in Kafka, and the reason.

    `asked` stands for the request where viewer and request id can be read, so that the app gets an answer.
    """

    record: Record
    message: MessageOffset
    reason: str
    asked: ReceivedRequest | None


class Intake:
    """A member of the workers' consumer group.

    `done` and `lag` are for any thread. All other methods, and the callbacks, belong to the intake thread: librdkafka
    runs the rebalance callbacks in the thread that polls.

    Args:
        settings: of the worker.
        assigned: called after partitions are assigned.
        finish: called before partitions are revoked; waits, for a limited time, until the batches in flight are done.

    Attributes:
        lag: requests that are not yet answered, by partition.

    """

    def __init__(self, settings: Settings, assigned: Callable[[], None], finish: Callable[[], None]) -> None:
        self._settings, self._assigned, self._finish = settings, assigned, finish
        self._offsets = Offsets()
        self._due: SimpleQueue[dict[Partition, int]] = SimpleQueue()
        self._revoked: set[Partition] = set()
        self._outage = outage("Kafka", settings.kafka)
        self._arrivals = Arrivals()
        self._lag_at_s = 0.0
        self.lag: dict[int, int] = {}
        self._consumer = self._join()

    def _join(self) -> Consumer:
        options = consumer_config(self._settings, group(self._settings, "feed-worker"), FETCH_WAIT_MS)
        options["max.poll.interval.ms"] = max(MAX_POLL_MS, self._settings.session_timeout_ms)
        consumer = Consumer(options | {"on_commit": self._on_commit})
        consumer.subscribe(
            [TOPIC],
            on_assign=lambda *_: self._assigned(),
            on_revoke=lambda _, partitions: self._on_revoke(partitions),
            on_lost=lambda _, partitions: self._on_lost(partitions),
        )
        return consumer

    def _rejoin(self, reason: str) -> None:
        """Leave the group and join it as a new member, which queries the offsets again.

        The requests received so far are dropped, as after a revocation.
        """
        self._outage.begins(reason)
        partitions = self._consumer.assignment()
        self._consumer.close()
        self._on_lost(partitions)
        self._consumer = self._join()

    def receive(
        self, limit: int, wait_s: float
    ) -> tuple[list[ReceivedRequest], list[DeadLetterRecord], set[Partition]]:
        """Receive messages; waits, at most `wait_s`, only while there is none.

        Returns:
            valid requests, dead letters for the other messages, and the partitions that were revoked meanwhile: the
            caller drops all that it received from these before.

        Raises:
            KafkaException: an error that does not pass.

        """
        self._commit(asynchronous=True)
        messages, revoked = self._poll(limit, wait_s)
        usable = usable_messages(messages)
        self._offsets.received(map(message_offset, usable))
        self._update_lag()
        return *self._decoded(usable), revoked

    def _poll(self, limit: int, wait_s: float) -> tuple[list[Message], set[Partition]]:
        """Poll message by message, since a rebalance may come between any two.

        This separates messages from before a revocation from those after the next assignment.
        """
        messages: list[Message] = []
        revoked: set[Partition] = set()
        while len(messages) < limit:
            self._revoked = set()
            message = self._consumer.poll(0 if messages else wait_s)
            error = None if message is None else message.error()
            if error is not None and error.code() in _OFFSETS_UNKNOWN:
                self._rejoin(error.str())
                message = None
            if self._revoked:
                messages = [each for each in messages if message_offset(each).partition not in self._revoked]
                revoked |= self._revoked
            if message is None:
                self._arrivals.reached_end(self._reported_ends(), now_ms())
                break
            messages.append(message)
        return messages, revoked

    def done(self, messages: Iterable[MessageOffset]) -> None:
        """Mark messages as answered; the next `receive` commits the offsets. For any thread."""
        if due := self._offsets.done(messages):
            self._due.put(due)

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _commit(self, *, asynchronous: bool) -> None:
        """Commit the offsets that are due.

        Only the intake thread may commit. Another thread would deadlock: its commit waits until a rebalance callback
        returns, and the callback waits for that thread's batch.
        """
        due: dict[Partition, int] = {}
        while not self._due.empty():
            for partition, offset in self._due.get().items():
                due[partition] = max(offset, due.get(partition, 0))
        if not due:
            return
        offsets = [TopicPartition(*partition, offset) for partition, offset in due.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=asynchronous)  # type: ignore[call-overload]  # either
        except KafkaException as error:
            self._on_commit(error.args[0], offsets)

    def _on_commit(self, error: KafkaError | None, offsets: Sequence[TopicPartition]) -> None:
        if error is None:
            self._outage.ends()
        elif error.code() in _REBALANCED:
            log.warning("a rebalance moved requests to another worker before their commit: %s", error.str())
        else:
            self._outage.begins(error.str())
            self._due.put({(each.topic, each.partition): each.offset for each in offsets})

    def _on_revoke(self, partitions: Sequence[TopicPartition]) -> None:
        self._finish()
        self._commit(asynchronous=False)
        self._on_lost(partitions)

    def _on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        lost = {(each.topic, each.partition) for each in partitions}
        self._revoked |= lost
        self._offsets.forget(lost)
        self._arrivals.forget(lost)
        self._due = SimpleQueue()
        self.lag = {}

    def _decoded(self, messages: Sequence[Message]) -> tuple[list[ReceivedRequest], list[DeadLetterRecord]]:
        received: list[ReceivedRequest] = []
        dead_letters: list[DeadLetterRecord] = []
        polled_ms, tolerance_ms = now_ms(), self._settings.future_tolerance_ms
        for message in messages:
            try:
                request: FeedRequest = decode(TOPIC, message.value())
                arrival_ms = arrived_ms(message, request.at, tolerance_ms, polled_ms)
                count_from_arrival(request, arrival_ms, tolerance_ms)
            except Refused as reason:
                asked = readable_request(message.value(), arrived_ms(message, polled_ms, tolerance_ms, polled_ms))
                refused = None if asked is None else self._received(message, asked, asked.at, polled_ms)
                letter = dead_letter(message, reason)
                dead_letters.append(DeadLetterRecord(letter, message_offset(message), str(reason), refused))
            else:
                received.append(self._received(message, request, arrival_ms, polled_ms))
        return received, dead_letters

    def _received(self, message: Message, request: FeedRequest, arrival_ms: int, polled_ms: int) -> ReceivedRequest:
        place = message_offset(message)
        return ReceivedRequest(
            request,
            self._arrivals.in_order(published_form(request.user_id), arrival_ms),
            self._arrivals.waits_since(place.partition, arrival_ms, polled_ms),
            place,
            len(message.value() or b""),
        )

    def _reported_ends(self) -> list[Partition]:
        """The assigned partitions whose end the broker has reported."""
        assigned = self._consumer.assignment()
        ends = ((each, self._consumer.get_watermark_offsets(each, cached=True)[1]) for each in assigned)
        return [(each.topic, each.partition) for each, end in ends if end >= 0]

    def _update_lag(self) -> None:
        if time.monotonic() - self._lag_at_s < LAG_EACH_S:
            return
        self._lag_at_s = time.monotonic()
        positions = self._consumer.position(self._consumer.assignment())
        self.lag = {each.partition: lag for each in positions if (lag := self._lag_of(each)) is not None}

    def _lag_of(self, position: TopicPartition) -> int | None:
        _, end = self._consumer.get_watermark_offsets(position, cached=True)
        first = self._offsets.first_open((position.topic, position.partition))
        next_ = position.offset if first is None else first
        return max(0, end - next_) if next_ >= 0 and end >= 0 else None


def message_offset(message: Message) -> MessageOffset:
    """The place of a message in Kafka."""
    return MessageOffset((message.topic() or "", message.partition() or 0), message.offset() or 0)
