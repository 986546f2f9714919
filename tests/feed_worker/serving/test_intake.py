"""Rebalances while messages are received, with a scripted consumer."""

import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, KafkaError, TopicPartition

from feed_worker.serving import intake
from feed_worker.serving.intake import TOPIC, Intake
from feed_worker.serving.offsets import MessageOffset
from infra.ports import consumer as consumer_module
from infra.ports.error_table import KAFKA_GROUP_EVENTS, KAFKA_RETRIES, Reaction, kafka_reaction
from infra.ports.errors import BrokerRefused
from infra.ports.settings import Settings
from tests.infra.ports.kafka_codes import ALL_CODES
from thunder_ingest.events import FeedRequest, encode, unpack_dead_letter

P, Q = 0, 1
T0 = 1_700_000_000_000


class Arrived:
    """A message with a request."""

    def __init__(self, part: int, offset: int) -> None:
        self._part, self._offset = part, offset

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return self._part

    def offset(self) -> int:
        return self._offset

    def error(self) -> KafkaError | None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_CREATE_TIME, T0

    def value(self) -> bytes:
        return encode(FeedRequest(request_id=f"{self._part}-{self._offset}", user_id=1, at=T0))


class Failed(Arrived):
    """An error of a consumer, for example of one whose broker goes away during an offset query."""

    def __init__(self, code: int = KafkaError._TRANSPORT, offset: int = -1001) -> None:
        super().__init__(P, offset)
        self._code = code

    def error(self) -> KafkaError:
        return KafkaError(self._code)

    def key(self) -> None:
        return None


Poll: TypeAlias = tuple[list[str], Arrived | None]
"""The callbacks that run during a poll, and its result."""


class Scripted:
    """A consumer with scripted polls: the callbacks and the result of each."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.polls: list[Poll] = []
        self.committed: list[tuple[int, int]] = []
        self.joined = 0
        self._assigned: list[TopicPartition] = []
        self._callbacks: dict[str, Callable[[object, list[TopicPartition]], None]] = {}

    def opened(self, options: dict[str, Any]) -> "Scripted":
        self.options = options
        return self

    def subscribe(self, _topics: list[str], **callbacks: Callable[[object, list[TopicPartition]], None]) -> None:
        self._callbacks = callbacks
        self.joined += 1

    def close(self) -> None:
        self._assigned = []

    def poll(self, _wait_s: float) -> Arrived | None:
        happens, message = self.polls.pop(0) if self.polls else ([], None)
        for what in happens:
            self._assigned = [TopicPartition(TOPIC, P)] if what == "on_assign" else []
            self._callbacks[what](self, [TopicPartition(TOPIC, P)])
        return message

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.committed += [(part.partition, part.offset) for part in offsets]

    def assignment(self) -> list[TopicPartition]:
        return self._assigned

    def get_watermark_offsets(self, _part: TopicPartition, **_: object) -> tuple[int, int]:
        return -1, -1

    def seek(self, _part: TopicPartition) -> None:
        """Do nothing."""

    def incremental_unassign(self, _parts: list[TopicPartition]) -> None:
        """Do nothing."""

    def incremental_assign(self, _parts: list[TopicPartition]) -> None:
        """Do nothing."""

    def position(self, parts: list[TopicPartition]) -> list[TopicPartition]:
        return parts


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    scripted = Scripted()
    monkeypatch.setattr(intake, "Consumer", scripted.opened)
    monkeypatch.setattr(intake, "REJOIN_EACH_S", 0.0)
    for module in (intake, consumer_module):
        monkeypatch.setattr(module, "kafka_probe", lambda _: lambda: True)
    return scripted


@pytest.fixture
def intake_(consumer: Scripted) -> Intake:
    return Intake(Settings(), lambda: None, lambda: None)


def received(intake_: Intake, consumer: Scripted, *polls: Poll) -> tuple[list[str], bool]:
    """The ids of the received requests, and True if earlier ones of P must be dropped."""
    consumer.polls = list(polls)
    requests, _, revoked = intake_.receive(10, 0.0)
    return [each.request.request_id for each in requests], (TOPIC, P) in revoked


def test_a_partition_that_is_revoked_and_assigned_again_is_read_from_its_committed_offset(
    intake_: Intake, consumer: Scripted
) -> None:
    assert received(intake_, consumer, ([], Arrived(P, 4)), ([], Arrived(P, 5))) == (["0-4", "0-5"], False)
    again = received(intake_, consumer, (["on_revoke", "on_assign"], Arrived(P, 4)), ([], Arrived(P, 5)))
    assert again == (["0-4", "0-5"], True)


def test_requests_of_a_partition_that_is_revoked_meanwhile_are_dropped(intake_: Intake, consumer: Scripted) -> None:
    came: list[Poll] = [([], Arrived(P, 4)), ([], Arrived(Q, 7)), (["on_revoke"], Arrived(Q, 8))]
    assert received(intake_, consumer, *came) == (["1-7", "1-8"], True)


def test_after_a_failed_offset_query_the_consumer_rejoins_and_its_requests_are_dropped(
    intake_: Intake, consumer: Scripted
) -> None:
    came: list[Poll] = [(["on_assign"], Arrived(P, 4)), ([], Arrived(Q, 7)), ([], Failed())]
    assert received(intake_, consumer, *came) == (["1-7"], True)
    assert consumer.joined == 2
    assert received(intake_, consumer, (["on_assign"], Arrived(P, 4)), ([], Arrived(P, 5))) == (["0-4", "0-5"], False)


def test_only_the_intake_thread_commits_and_at_the_latest_before_a_revocation(
    intake_: Intake, consumer: Scripted
) -> None:
    received(intake_, consumer, ([], Arrived(P, 4)), ([], Arrived(P, 5)))
    delivery = threading.Thread(target=intake_.done, args=([MessageOffset((TOPIC, P), 4)],))
    delivery.start()
    delivery.join()
    assert consumer.committed == []
    received(intake_, consumer, (["on_revoke"], None))
    assert consumer.committed == [(P, 5)]


@pytest.mark.parametrize("code", ALL_CODES)
def test_an_error_at_reading_has_the_outcome_that_the_table_names(
    code: int, intake_: Intake, consumer: Scripted
) -> None:
    reaction = kafka_reaction(KafkaError(code))
    received(intake_, consumer, (["on_assign"], Arrived(P, 4)))
    consumer.polls = [([], Failed(code, 5))]
    if reaction is Reaction.END:
        with pytest.raises(BrokerRefused):
            intake_.receive(10, 0.0)
        return
    intake_.receive(10, 0.0)
    rejoins = code not in KAFKA_GROUP_EVENTS and reaction is not Reaction.SKIP
    assert consumer.joined == 1 + rejoins
    assert received(intake_, consumer, (["on_assign"], Arrived(P, 6))) == (["0-6"], False)


def test_unknown_errors_at_reading_are_bounded_over_all_rejoins(
    intake_: Intake, consumer: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "RETRY_S", 0.0)
    consumer.polls = [([], Failed(KafkaError.UNKNOWN)) for _ in range(KAFKA_RETRIES + 1)]
    for _ in range(KAFKA_RETRIES):
        intake_.receive(10, 0.0)
    with pytest.raises(BrokerRefused):
        intake_.receive(10, 0.0)


@pytest.mark.parametrize("code", ALL_CODES)
def test_an_error_at_committing_has_the_outcome_that_the_table_names(
    code: int, intake_: Intake, consumer: Scripted
) -> None:
    reaction = kafka_reaction(KafkaError(code))
    received(intake_, consumer, (["on_assign"], Arrived(P, 4)))
    failed = [TopicPartition(TOPIC, P, 5)]
    if reaction is Reaction.END:
        with pytest.raises(BrokerRefused):
            intake_._on_commit(KafkaError(code), failed)
        return
    intake_._on_commit(KafkaError(code), failed)
    received(intake_, consumer)
    assert consumer.committed == ([] if reaction is Reaction.SKIP else [(P, 5)])


def test_unknown_errors_at_committing_are_bounded(intake_: Intake) -> None:
    failed = [TopicPartition(TOPIC, P, 5)]
    for _ in range(KAFKA_RETRIES):
        intake_._on_commit(KafkaError(KafkaError.UNKNOWN), failed)
    with pytest.raises(BrokerRefused):
        intake_._on_commit(KafkaError(KafkaError.UNKNOWN), failed)


def test_an_offset_of_a_partition_that_another_worker_has_is_not_committed_again(
    intake_: Intake, consumer: Scripted
) -> None:
    received(intake_, consumer, (["on_assign"], Arrived(P, 4)))
    intake_._on_commit(
        KafkaError(KafkaError.ILLEGAL_GENERATION), [TopicPartition(TOPIC, P, 5), TopicPartition(TOPIC, Q, 8)]
    )
    received(intake_, consumer)
    assert consumer.committed == [(P, 5)]


def test_an_error_of_one_partition_of_a_commit_is_noticed(intake_: Intake) -> None:
    class Refused:
        topic, partition, offset = TOPIC, P, 5
        error = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)

    with pytest.raises(BrokerRefused):
        intake_._on_commit(None, [Refused()])


def test_commits_are_seldom_and_the_last_offsets_are_committed_before_a_revocation(
    intake_: Intake, consumer: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    received(intake_, consumer, (["on_assign"], Arrived(P, 4)), *(([], Arrived(P, offset)) for offset in (5, 6, 7)))
    for offset in (4, 5, 6):
        intake_.done([MessageOffset((TOPIC, P), offset)])
        received(intake_, consumer)
    assert consumer.committed == [(P, 5)]
    monkeypatch.setattr(intake, "COMMIT_EACH_S", 0.0)
    received(intake_, consumer)
    assert consumer.committed == [(P, 5), (P, 7)]
    monkeypatch.setattr(intake, "COMMIT_EACH_S", 1e9)
    intake_.done([MessageOffset((TOPIC, P), 7)])
    received(intake_, consumer, (["on_revoke"], None))
    assert consumer.committed == [(P, 5), (P, 7), (P, 8)]


def test_a_revocation_keeps_the_messages_and_the_offsets_of_other_partitions(
    intake_: Intake, consumer: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "COMMIT_EACH_S", 0.0)
    received(intake_, consumer, (["on_assign"], Arrived(P, 4)), ([], Arrived(Q, 7)))
    intake_._due.put({(TOPIC, P): 5, (TOPIC, Q): 8})
    intake_._on_lost([TopicPartition(TOPIC, P)])
    received(intake_, consumer)
    assert consumer.committed == [(Q, 8)]
    intake_.done([MessageOffset((TOPIC, Q), 7)])
    received(intake_, consumer)
    assert consumer.committed == [(Q, 8), (Q, 8)]


def test_an_unreadable_batch_is_one_dead_letter(intake_: Intake, consumer: Scripted) -> None:
    consumer.polls = [([], Failed(KafkaError._BAD_COMPRESSION, 5))]
    _, (letter,), _ = intake_.receive(10, 0.0)
    assert letter.message == MessageOffset((TOPIC, P), 5)
    content = unpack_dead_letter(letter.record.value or b"")
    assert (content.offset, content.value) == (5, None)
    assert content.reason.startswith("the messages from this offset on cannot be read")


def test_a_worker_that_lost_its_partitions_is_no_member_until_it_is_assigned_some(
    intake_: Intake, consumer: Scripted
) -> None:
    assert not intake_.is_member
    for callback, is_member in (("on_assign", True), ("on_revoke", True), ("on_lost", False), ("on_assign", True)):
        received(intake_, consumer, ([callback], None))
        assert intake_.is_member == is_member, callback


@pytest.mark.parametrize(("name", "given"), [("", None), ("worker-1", "worker-1")])
def test_workers_share_partitions_cooperatively_and_are_static_members_by_name(
    name: str, given: str | None, consumer: Scripted
) -> None:
    Intake(Settings(group_instance_id=name), lambda: None, lambda: None)
    assert consumer.options["partition.assignment.strategy"] == "cooperative-sticky"
    assert consumer.options.get("group.instance.id") == given
