"""Members of the workers' group that join and leave, on a real broker."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from feed_worker.serving.intake import TOPIC, Intake
from feed_worker.serving.offsets import Partition
from infra.ports.clock import now_ms
from infra.ports.producer import KafkaProducer, Record
from infra.ports.settings import Settings
from tests.infra.waiting import eventually
from thunder_ingest.events import FeedRequest, encode

pytestmark = pytest.mark.embedded


class Member:
    """A worker that answers at once, in a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self.answered: dict[str, float] = {}
        self.revoked: list[Partition] = []
        self.assignments = 0
        self.read_from: dict[str, Partition] = {}
        self.partitions: set[int] = set()
        self._settings, self._stopping = settings, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        self.intake = Intake(self._settings, self._count, lambda: None)
        while not self._stopping.is_set():
            received, _, revoked = self.intake.receive(100, 0.02)
            self.revoked += revoked
            self.partitions = {each.partition for each in self.intake._consumer.assignment()}
            self.answered |= {each.request.request_id: time.monotonic() for each in received}
            self.read_from |= {each.request.request_id: each.message.partition for each in received}
            self.intake.done([each.message for each in received])
        self.intake.receive(1, 0.0)
        self.intake.close()

    def _count(self) -> None:
        self.assignments += 1


class Requests:
    """Requests of many users at a steady rate."""

    def __init__(self, settings: Settings, prefix: str) -> None:
        self.sent: dict[str, float] = {}
        self._producer, self._prefix, self._stopping = KafkaProducer(settings), prefix, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._producer.flush()

    def _run(self) -> None:
        while not self._stopping.wait(0.01):
            request_id = f"{self._prefix}-{len(self.sent)}"
            request = FeedRequest(request_id=request_id, user_id=1 + len(self.sent), at=now_ms())
            self.sent[request_id] = time.monotonic()
            self._producer.publish([Record(TOPIC, request_id.encode(), encode(request))])
            self._producer.poll()


@contextmanager
def members(settings: Settings, number: int) -> Iterator[list[Member]]:
    with ExitStack() as stack:
        started = [Member(settings) for _ in range(number)]
        for each in started:
            stack.callback(each.leave)
        yield started


def test_a_member_that_joins_takes_only_the_partitions_that_move_and_each_request_is_received(
    servers: Settings,
) -> None:
    settings = servers.model_copy(update={"group_prefix": "rebalance", "session_timeout_ms": 3_000})
    with members(settings, 1) as (first,):
        eventually(lambda: first.assignments > 0 and len(first.partitions) == settings.partitions)
        requests = Requests(settings, "join")
        with members(settings, 1) as (second,):
            eventually(lambda: second.assignments > 0 and len(second.partitions) == 1)
            assert len(first.partitions) == 1
            assert len(set(first.revoked)) == len(first.revoked) == 1
            eventually(lambda: len(second.answered) > 20)
        eventually(lambda: len(first.partitions) == settings.partitions)
        requests.stop()
        eventually(lambda: requests.sent.keys() <= first.answered.keys() | second.answered.keys())
        assert len(first.revoked) == 1
