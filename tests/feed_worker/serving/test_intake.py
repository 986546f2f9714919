"""What a rebalance does to messages that are being taken, with a consumer that does as it is told."""

import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, KafkaError, TopicPartition

from feed_worker.serving import intake
from feed_worker.serving.intake import TOPIC, Intake
from feed_worker.serving.offsets import MessageOffset
from infra.ports.clock import WallClock
from infra.ports.settings import Settings
from thunder_ingest.events import FeedRequest, encode

P, Q = 0, 1


class Arrived:
    """A request in a partition."""

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
        return TIMESTAMP_CREATE_TIME, 1

    def value(self) -> bytes:
        return encode(FeedRequest(request_id=f"{self._part}-{self._offset}", user_id=1, at=1))


class OutOfTouch:
    """What a consumer says whose broker goes while it asks how far its partitions are."""

    def error(self) -> KafkaError:
        return KafkaError(KafkaError._TRANSPORT)


Poll: TypeAlias = tuple[list[str], Arrived | OutOfTouch | None]
"""The callbacks that are called during it, and what it returns."""


class Scripted:
    """A consumer whose polls are written down beforehand: what happens during each, and what it returns."""

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

    def poll(self, _wait_s: float) -> Arrived | OutOfTouch | None:
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
def taking(consumer: Scripted) -> Intake:
    return Intake(Settings(), WallClock(), lambda: None, lambda: None)


def took(taking: Intake, consumer: Scripted, *polls: Poll) -> tuple[list[str], bool]:
    """The requests taken, and whether those of P that were taken before are to be let go."""
    consumer.polls = list(polls)
    taken, _, gone = taking.receive(10, 0.0)
    return [each.request.request_id for each in taken], (TOPIC, P) in gone


def test_a_partition_that_goes_and_comes_back_at_once_is_read_from_where_it_begins_again(
    taking: Intake, consumer: Scripted
) -> None:
    assert took(taking, consumer, ([], Arrived(P, 4)), ([], Arrived(P, 5))) == (["0-4", "0-5"], False)
    again = took(taking, consumer, (["on_revoke", "on_assign"], Arrived(P, 4)), ([], Arrived(P, 5)))
    assert again == (["0-4", "0-5"], True)


def test_what_was_just_taken_of_a_partition_that_goes_is_let_go(taking: Intake, consumer: Scripted) -> None:
    came: list[Poll] = [([], Arrived(P, 4)), ([], Arrived(Q, 7)), (["on_revoke"], Arrived(Q, 8))]
    assert took(taking, consumer, *came) == (["1-7", "1-8"], True)


def test_a_consumer_that_cannot_find_out_where_it_stands_is_replaced_and_what_it_took_let_go(
    taking: Intake, consumer: Scripted
) -> None:
    came: list[Poll] = [(["on_assign"], Arrived(P, 4)), ([], Arrived(Q, 7)), ([], OutOfTouch())]
    assert took(taking, consumer, *came) == (["1-7"], True)
    assert consumer.joined == 2
    assert took(taking, consumer, (["on_assign"], Arrived(P, 4)), ([], Arrived(P, 5))) == (["0-4", "0-5"], False)


def test_what_is_done_is_committed_by_the_thread_that_takes_and_before_a_partition_goes(
    taking: Intake, consumer: Scripted
) -> None:
    took(taking, consumer, ([], Arrived(P, 4)), ([], Arrived(P, 5)))
    delivery = threading.Thread(target=taking.done, args=([MessageOffset((TOPIC, P), 4)],))
    delivery.start()
    delivery.join()
    assert consumer.committed == []
    took(taking, consumer, (["on_revoke"], None))
    assert consumer.committed == [(P, 5)]
