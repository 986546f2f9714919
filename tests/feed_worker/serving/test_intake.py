"""Rebalances while messages are received, with a scripted consumer."""

import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, KafkaError, TopicPartition

from feed_worker.serving import intake
from feed_worker.serving.intake import TOPIC, Intake
from feed_worker.serving.offsets import MessageOffset
from infra.ports.settings import Settings
from thunder_ingest.events import FeedRequest, encode

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

    def error(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_CREATE_TIME, T0

    def value(self) -> bytes:
        return encode(FeedRequest(request_id=f"{self._part}-{self._offset}", user_id=1, at=T0))


class OffsetsUnknown:
    """The error of a consumer whose broker goes away during an offset query."""

    def error(self) -> KafkaError:
        return KafkaError(KafkaError._TRANSPORT)


Poll: TypeAlias = tuple[list[str], Arrived | OffsetsUnknown | None]
"""The callbacks that run during a poll, and its result."""


class Scripted:
    """A consumer with scripted polls: the callbacks and the result of each."""

    def __init__(self, _options: dict[str, Any]) -> None:
        self.polls: list[Poll] = []
        self.committed: list[tuple[int, int]] = []
        self.joined = 0
        self._assigned: list[TopicPartition] = []
        self._callbacks: dict[str, Callable[[object, list[TopicPartition]], None]] = {}

    def subscribe(self, _topics: list[str], **callbacks: Callable[[object, list[TopicPartition]], None]) -> None:
        self._callbacks = callbacks
        self.joined += 1

    def close(self) -> None:
        self._assigned = []

    def poll(self, _wait_s: float) -> Arrived | OffsetsUnknown | None:
        happens, message = self.polls.pop(0) if self.polls else ([], None)
        for what in happens:
            self._assigned = [TopicPartition(TOPIC, P)] if what == "on_assign" else []
            self._callbacks[what](self, [TopicPartition(TOPIC, P)])
        return message

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        self.committed += [(part.partition, part.offset) for part in offsets]

    def assignment(self) -> list[TopicPartition]:
        return self._assigned

    def get_watermark_offsets(self, _part: TopicPartition, *, cached: bool) -> tuple[int, int]:
        assert cached
        return -1, -1

    def position(self, parts: list[TopicPartition]) -> list[TopicPartition]:
        return parts


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    scripted = Scripted({})
    monkeypatch.setattr(intake, "Consumer", lambda _options: scripted)
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
    came: list[Poll] = [(["on_assign"], Arrived(P, 4)), ([], Arrived(Q, 7)), ([], OffsetsUnknown())]
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
