"""Delivery while servers make it wait: the last checks come after the waits."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import redis
from prometheus_client import CollectorRegistry

from feed_worker.candidates.query import Query
from feed_worker.documents.feed import Feed
from feed_worker.monitoring.metrics import WorkerMetrics
from feed_worker.pipeline import foryou_pipeline
from feed_worker.serving.batch import Batch, BatchRunner, Computation
from feed_worker.serving.delivery import Delivery, DocumentBuilder
from feed_worker.serving.feed_store import Answer, FeedStore
from feed_worker.serving.offsets import MessageOffset
from feed_worker.serving.request_queue import MergedRequest, ReceivedRequest
from infra.ports import redis as redis_port
from infra.ports.clock import WallClock
from infra.ports.record_writer import RecordWriter
from infra.ports.redis import RedisRetry
from infra.ports.settings import load
from phoenix.index.retrieval_index import VectorIndex
from tests.feed_worker.builders import VIEWER, FixedModel, KnownUsers, post, query, store_of, viewer
from thunder_ingest.events import AccountState, FeedServed, Post, pack
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.state import UserState

NOW_MS = WallClock().now_ms()
SHOWN = ["1", "2", "3"]


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    PostStore().warm_up()  # a compilation may exceed the budget of a component


@dataclass
class Line:
    """A worker's steps in one thread, with a Redis and a Kafka that are away when a test wants it."""

    store: PostStore
    users: dict[str, UserState]
    meanwhile: dict[str, list[Callable[[], object]]] = field(default_factory=dict)
    feeds: list[Feed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = KnownUsers(self.users)
        self.retry = RedisRetry(load(), threading.Event())
        pipeline = foryou_pipeline(self.store, VectorIndex(), FixedModel(), self.state)
        self.add_served, self.state.add_served = self.state.add_served, self._add_served  # type: ignore[method-assign]
        self.runner = BatchRunner(pipeline, "fixed-1", self.retry, lambda asked: self.asked(asked.request.request_id))
        self.deadline_at = NOW_MS + 600_000
        self.delivery = Delivery(
            DocumentBuilder(self.store, WallClock()),
            cast(FeedStore, self),
            cast(RecordWriter, self),
            self.retry,
            lambda _: None,
            WorkerMetrics(CollectorRegistry()),
        )

    def asked(self, request_id: str) -> Query:
        made = query(request_id=request_id, at=NOW_MS, now_ms=NOW_MS, size=20)
        made.deadline_at = self.deadline_at
        return made

    def ranked(self, request_id: str) -> Batch:
        asked = self.asked(request_id)
        received = ReceivedRequest(asked.request, NOW_MS, NOW_MS, NOW_MS, MessageOffset(("feed-requests", 0), 0))
        batch = Batch(self.runner, [Computation(MergedRequest([received]), asked)], [], 0.0)
        self.runner.gather(batch.computations)
        self.runner.rank(batch.computations)
        return batch

    def shown(self) -> list[tuple[str, list[str]]]:
        return [(feed.status, sorted({item.post_id for item in feed.items} - {"9"})) for feed in self.feeds]

    def _step(self, name: str) -> None:
        """Run the events of an outage; the server is away until all of them have run."""
        if waiting := self.meanwhile.get(name):
            waiting.pop(0)()
            raise redis.ConnectionError("away")

    # the feed store, the users' state and the writer

    def are_answered(self, requests: Sequence[tuple[str, str]]) -> list[bool]:
        self._step("are_answered")
        return [False for _ in requests]

    def _add_served(self, *arguments: Any) -> None:
        self._step("add_served")
        self.add_served(*arguments)

    def write_previews(self, feeds: Sequence[Feed]) -> None:
        """Write nothing."""

    def write(self, answers: Sequence[Answer]) -> list[bytes]:
        self._step("write")
        self.feeds += [answer.feed for answer in answers]
        served: list[FeedServed] = [each for answer in answers for each in answer.served]
        return [pack(each) for each in served]

    def publish(self, _records: object) -> None:
        """Hand over nothing."""

    def deliver(self) -> None:
        for happens in self.meanwhile.pop("deliver", []):
            happens()


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    """Posts 1 to 3 of authors 51 to 53, of which 3 quotes post 9 of author 59."""
    monkeypatch.setattr(redis_port, "_RETRY_S", 0.01)
    posts = [post(number, 50 + number, created_at=NOW_MS - 60_000) for number in (1, 2)]
    posts.append(post(3, 53, "quote", source_post_id=9, source_author_id=59, created_at=NOW_MS - 60_000))
    posts.append(post(9, 59, created_at=NOW_MS - 60_000))
    state = viewer(following=[51, 52, 53])
    return Line(store_of(*posts), {str(VIEWER): state})


def labelled(line: Line) -> list[str]:
    line.store.apply([Post(post_id=1, author_id=0, labels={"spam": NOW_MS})])
    return ["2", "3"]


def suspended(line: Line) -> list[str]:
    line.store.accounts.apply([AccountState(user_id=52, status="suspended", at=NOW_MS)])
    return ["1", "3"]


def quoted_post_deleted(line: Line) -> list[str]:
    line.store.apply([Post(post_id=9, author_id=0, deleted_at=NOW_MS)])
    line.store.remove([9])
    return ["1", "2"]


VERDICTS = [labelled, suspended, quoted_post_deleted]


@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize("step", ["are_answered", "add_served", "write"])
def test_a_verdict_that_arrives_while_redis_is_away_counts(
    line: Line, step: str, verdict: Callable[[Line], list[str]]
) -> None:
    batch, left = line.ranked("a"), list[list[str]]()
    line.meanwhile[step] = [lambda: left.append(verdict(line))]
    line.delivery(batch)
    assert line.shown() == [("ok", *left)]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_verdict_that_arrives_while_the_batch_before_waits_for_kafka_counts(
    line: Line, verdict: Callable[[Line], list[str]]
) -> None:
    before, batch, left = line.ranked("a"), line.ranked("b"), list[list[str]]()
    line.meanwhile["deliver"] = [lambda: left.append(verdict(line))]
    line.delivery(before)
    line.delivery(batch)
    assert line.shown() == [("ok", SHOWN), ("ok", *left)]


@pytest.mark.parametrize("step", ["are_answered", "add_served", "write"])
def test_a_deadline_that_passes_while_redis_is_away_counts(line: Line, step: str) -> None:
    batch = line.ranked("a")

    def pass_deadline() -> None:
        line.deadline_at = batch.computations[0].query.deadline_at = NOW_MS - 1

    line.meanwhile[step] = [pass_deadline]
    line.delivery(batch)
    assert line.shown() == [("expired", [])]


@pytest.mark.parametrize("step", ["are_answered", "write"])
def test_after_a_long_wait_for_redis_the_viewers_blocks_and_mutes_are_read_again(
    line: Line, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr("feed_worker.serving.delivery.LONG_WAIT_S", 0.0)
    batch = line.ranked("a")

    def block() -> None:
        line.users[str(VIEWER)] = viewer(following=[51, 52, 53], blocks=[51], mutes=[59])

    line.meanwhile[step] = [block]
    line.delivery(batch)
    assert line.shown() == [("ok", ["2"])]


def test_after_a_long_wait_for_kafka_the_batches_behind_are_computed_again(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed_worker.serving.delivery.LONG_WAIT_S", 0.0)
    before, batch = line.ranked("a"), line.ranked("b")

    def block() -> None:
        line.users[str(VIEWER)] = viewer(following=[51, 52, 53], blocks=[51])

    line.meanwhile["deliver"] = [block]
    line.delivery(before)
    line.delivery(batch)
    assert line.shown() == [("ok", SHOWN), ("ok", ["2", "3"])]
