"""The consumer of `feed-requests`: receives requests, commits offsets, and handles rebalances.

The offset of a partition is committed only as far as every message before it is answered; the answers may come in any
order.

Rebalances are cooperative (KIP-429): a worker that joins or leaves moves a few partitions, and the others serve theirs
meanwhile. Before partitions are revoked, the batches in flight are finished and committed, so the next owner starts
after them. Requests of these partitions that are still queued are dropped here and read by the next owner. If the wait
for the batches is cut short, or partitions are lost without a callback, some requests are computed twice. The ledger in
Redis then keeps the first answer.
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
from infra.ports.consumer import MessageCheck, arrived_ms
from infra.ports.error_table import KAFKA_GROUP_EVENTS, KAFKA_RETRIES, Reaction, kafka_reaction
from infra.ports.errors import BrokerRefused
from infra.ports.kafka_config import consumer_config, group, kafka_outage, kafka_probe
from infra.ports.process_metrics import KAFKA_ERRORS
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

HEARTBEAT_MS: Final = 300
"""A member finds out about a rebalance at a heartbeat. Partitions that move are without an owner until all have."""
COMMIT_EACH_S: Final = 2.0
"""The least time between two commits. One that meets a rebalance between JoinGroup and SyncGroup is answered with
ILLEGAL_GENERATION; librdkafka then gives up all partitions and joins again, instead of those that move alone.
"""
REJOIN_EACH_S: Final = 1.0
"""The least time between two attempts to join."""


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
        is_member: True while the group has this worker as a member, with or without partitions.

    """

    def __init__(self, settings: Settings, assigned: Callable[[], None], finish: Callable[[], None]) -> None:
        self._settings, self._assigned, self._finish = settings, assigned, finish
        self._offsets = Offsets()
        self._due: SimpleQueue[dict[Partition, int]] = SimpleQueue()
        self._revoked: set[Partition] = set()
        self._outage = kafka_outage(settings)
        self._arrivals = Arrivals()
        self._failed_commits = 0
        self._lag_at_s, self._joined_at_s, self._committed_at_s = 0.0, -REJOIN_EACH_S, -COMMIT_EACH_S
        self.lag: dict[int, int] = {}
        self.is_member = False
        self._consumer = self._join()
        self._check = MessageCheck(settings, self._consumer, keeps_unreadable=True)

    def _join(self) -> Consumer:
        settings = self._settings
        options = consumer_config(settings, group(settings, "feed-worker"), FETCH_WAIT_MS) | {
            "partition.assignment.strategy": "cooperative-sticky",
            "heartbeat.interval.ms": min(HEARTBEAT_MS, settings.session_timeout_ms // 4),
            "max.poll.interval.ms": max(MAX_POLL_MS, settings.session_timeout_ms),
            "on_commit": self._on_commit,
        }
        if settings.group_instance_id:
            options["group.instance.id"] = settings.group_instance_id
        self._joined_at_s = time.monotonic()
        consumer = Consumer(options)
        consumer.subscribe(
            [TOPIC],
            on_assign=lambda *_: self._on_assign(),
            on_revoke=lambda _, partitions: self._on_revoke(partitions),
            on_lost=lambda _, partitions: self._on_lost(partitions),
        )
        return consumer

    def _rejoin(self) -> None:
        """Leave the group and join it as a new member, which queries the offsets again.

        The requests received so far are dropped, as after a revocation.
        """
        time.sleep(max(0.0, self._joined_at_s + REJOIN_EACH_S - time.monotonic()))
        partitions = self._consumer.assignment()
        self._consumer.close()
        self._on_lost(partitions)
        self._consumer = self._join()
        self._check.reads(self._consumer)

    def receive(
        self, limit: int, wait_s: float
    ) -> tuple[list[ReceivedRequest], list[DeadLetterRecord], set[Partition]]:
        """Receive messages; waits, at most `wait_s`, only while there is none.

        Returns:
            valid requests, dead letters for the other messages, and the partitions that were revoked meanwhile: the
            caller drops all that it received from these before.

        Raises:
            BrokerRefused: Kafka refuses the process.

        """
        if time.monotonic() - self._committed_at_s >= COMMIT_EACH_S:
            self._commit(asynchronous=True)
        messages, revoked = self._poll(limit, wait_s)
        self._offsets.received(map(message_offset, messages))
        self._update_lag()
        return *self._decoded(messages), revoked

    def _poll(self, limit: int, wait_s: float) -> tuple[list[Message], set[Partition]]:
        """Poll message by message, since a rebalance may come between any two.

        This separates messages from before a revocation from those after the next assignment.
        """
        messages: list[Message] = []
        revoked: set[Partition] = set()
        while len(messages) < limit:
            self._revoked = set()
            message = self._consumer.poll(0 if messages else wait_s)
            usable = [] if message is None else self._check.usable([message])
            if self._check.position_is_lost:
                self._rejoin()
            if self._revoked:
                messages = [each for each in messages if message_offset(each).partition not in self._revoked]
                revoked |= self._revoked
            if message is None:
                self._arrivals.reached_end(self._reported_ends(), now_ms())
            if not usable:
                break
            messages += usable
        return messages, revoked

    def done(self, messages: Iterable[MessageOffset]) -> None:
        """Mark messages as answered; a later `receive` commits the offsets. For any thread."""
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
        self._committed_at_s = time.monotonic()
        offsets = [TopicPartition(*partition, offset) for partition, offset in due.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=asynchronous)
        except KafkaException as error:
            self._on_commit(error.args[0], offsets)

    def _on_commit(self, error: KafkaError | None, offsets: Sequence[TopicPartition]) -> None:
        """Commit again what was not committed, unless another worker has the partition.

        Raises:
            BrokerRefused: Kafka refuses the commit for good.

        """
        error = error or next((each.error for each in offsets if each.error is not None), None)
        if error is None:
            self._failed_commits = 0
            self._outage.ends()
            return
        KAFKA_ERRORS.add(error.name())
        reaction = kafka_reaction(error)
        self._failed_commits += reaction is None
        if reaction is Reaction.END or self._failed_commits > KAFKA_RETRIES:
            raise BrokerRefused(f"Kafka at {self._settings.kafka} refuses a commit: {error.str()} ({error.name()})")
        if error.code() in KAFKA_GROUP_EVENTS:
            owned = {(each.topic, each.partition) for each in self._consumer.assignment()}
            moved = [each for each in offsets if (each.topic, each.partition) not in owned]
            if moved:
                log.warning("a rebalance moved requests to another worker before their commit: %s", error.str())
            offsets = [each for each in offsets if each not in moved]
        elif reaction is Reaction.SKIP:
            log.error("offsets were not committed, later ones follow: %s", error.str())
            return
        else:
            self._outage.begins(error.str(), kafka_probe(self._settings))
        self._due.put({(each.topic, each.partition): each.offset for each in offsets})

    def _on_assign(self) -> None:
        self.is_member = True
        self._assigned()

    def _on_revoke(self, partitions: Sequence[TopicPartition]) -> None:
        if partitions:
            self._finish()
            self._commit(asynchronous=False)
            self._forget(partitions)

    def _on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.is_member = False
        self._forget(partitions)

    def _forget(self, partitions: Sequence[TopicPartition]) -> None:
        lost = {(each.topic, each.partition) for each in partitions}
        self._revoked |= lost
        self._offsets.forget(lost)
        self._arrivals.forget(lost)
        for _ in range(self._due.qsize()):
            due = self._due.get()
            self._due.put({partition: offset for partition, offset in due.items() if partition not in lost})
        self.lag = {partition: lag for partition, lag in self.lag.items() if (TOPIC, partition) not in lost}

    def _decoded(self, messages: Sequence[Message]) -> tuple[list[ReceivedRequest], list[DeadLetterRecord]]:
        received: list[ReceivedRequest] = []
        dead_letters: list[DeadLetterRecord] = []
        polled_ms, tolerance_ms = now_ms(), self._settings.future_tolerance_ms
        for message in messages:
            try:
                if (error := message.error()) is not None:
                    raise Refused(f"the messages from this offset on cannot be read: {error.str()}")
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
        viewer = published_form(request.user_id)
        arrived_ms, history_ms = self._arrivals.in_order(place.partition, viewer, arrival_ms)
        return ReceivedRequest(
            request,
            arrived_ms,
            history_ms,
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
