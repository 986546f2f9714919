"""A worker on a real broker and a real Redis: every request is answered, with faults in any step."""

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import cast

import msgspec
import pytest
import redis
from confluent_kafka import Consumer, TopicPartition
from prometheus_client import CollectorRegistry

from feed_worker.candidates.query import Query
from feed_worker.client.answer_lookup import decode_feed
from feed_worker.documents.build import feed_of
from feed_worker.experiments import Experiments
from feed_worker.framework.components import QueryFields, QueryHydrator
from feed_worker.framework.pipeline import Pipeline
from feed_worker.framework.request_run import RequestRun, Result
from feed_worker.parameters import FORYOU
from feed_worker.pipeline import foryou_pipeline
from feed_worker.serving import delivery
from feed_worker.serving import worker as worker_module
from feed_worker.serving.batch import Batch
from feed_worker.serving.feed_store import Answer, FeedStore
from feed_worker.serving.request_queue import MAX_COMPUTATIONS
from feed_worker.serving.stage_threads import StageThreads
from feed_worker.serving.worker import ServingState, Worker
from feed_worker.serving.worker_registry import ready_workers
from infra.ops.doctor import examine
from infra.ports.clock import WallClock
from infra.ports.errors import RedisRefused
from infra.ports.kafka_admin import admin, create_topics, ends_of, lag
from infra.ports.kafka_config import consumer_config, group
from infra.ports.outage import outage
from infra.ports.producer import KafkaProducer, Record
from infra.ports.redis import connect
from infra.ports.settings import Settings, load
from infra.ports.topic_reader import scan
from infra.stack.embedded import EmbeddedKafka, EmbeddedRedis
from phoenix.index.retrieval_index import VectorIndex
from tests.feed_worker.builders import FixedModel, post, store_of
from tests.feed_worker.client.answering import feed_in, record_in
from tests.feed_worker.serving.test_feed_store import answer as answer_of
from tests.feed_worker.serving.test_feed_store import feed as feed_document
from tests.infra import waiting
from thunder_ingest.events import (
    Block,
    DeadLetter,
    FeedRequest,
    FeedServed,
    Follow,
    Post,
    encode,
    unpack_dead_letter,
    unpack_feed_served,
)
from thunder_ingest.events.ids import published_form
from thunder_ingest.events.redis_keys import feed_key, preview_key, user_key
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.entries import updates_of
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole

pytestmark = pytest.mark.embedded

viewers = itertools.count(1_000)
eventually = partial(waiting.eventually, timeout_s=120.0)
"""A test machine may be slow."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    PostStore().warm_up()  # a compilation may exceed the budget of a component
    with (
        EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as kafka,
        EmbeddedRedis(tmp_path_factory.mktemp("redis")) as valkey,
    ):
        # the embedded broker delays the first assignment of a group by half of its session timeout
        yield load(
            kafka=kafka.address, redis=valkey.address, partitions=2, session_timeout_ms=2_000, max_wait_ms=600_000
        )


@pytest.fixture
def settings(servers: Settings, request: pytest.FixtureRequest) -> Settings:
    """A new consumer group, and a Redis without users."""
    with redis.Redis.from_url(servers.redis) as client:
        client.flushall()
        declare_whole(client)
    create_topics(servers)
    own = servers.model_copy(update={"group_prefix": uuid.uuid4().hex})
    skip_what_is_there(own)
    return own


def skip_what_is_there(settings: Settings) -> None:
    """Start the consumer group after the requests of other tests."""
    ends = ends_of(settings, ["feed-requests"])
    if offsets := [TopicPartition(*part, end) for part, end in ends.items() if end]:
        consumer = Consumer(consumer_config(settings, group(settings, "feed-worker")))
        consumer.commit(offsets=offsets, asynchronous=False)
        consumer.close()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No overload: requests published before the worker starts wait for the group to form."""
    monkeypatch.setattr("feed_worker.serving.admission.QUEUED_MS", 600_000)


@pytest.fixture
def store() -> PostStore:
    now_ms = WallClock().now_ms()
    return store_of(*(post(number, number + 50, created_at=now_ms - 60_000) for number in range(1, 41)))


@pytest.fixture
def client(settings: Settings) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(settings.redis) as connected:
        yield connected


class Running:
    """A worker in a thread of this process."""

    def __init__(self, settings: Settings, store: PostStore, pipeline: Pipeline | None = None) -> None:
        self.stopping = threading.Event()
        self.registry = CollectorRegistry()
        self.failure: BaseException | None = None
        self._client = connect(settings)
        pipeline = pipeline or pipeline_on(store, UserStates(self._client))
        state = ServingState(store, {}, self._client, WallClock(), lambda: None)
        self.worker = Worker(
            settings, pipeline, FixedModel.version, Experiments(FORYOU), state, self.registry, self.stopping
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        self.stopping.set()
        self.wait()

    def wait(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._client.close()

    def figure(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def pipeline_on(store: PostStore, users: UserStates) -> Pipeline:
    return foryou_pipeline(store, VectorIndex(), FixedModel(), users)


@contextmanager
def running(settings: Settings, store: PostStore, pipeline: Pipeline | None = None) -> Iterator[Running]:
    started = Running(settings, store, pipeline)
    try:
        yield started
    finally:
        started.stop()


def ask(settings: Settings, *requests: FeedRequest | bytes) -> None:
    """Publish requests, or raw bytes."""
    publisher = KafkaProducer(settings)
    publisher.publish(
        Record("feed-requests", b"k", each)
        if isinstance(each, bytes)
        else Record("feed-requests", published_form(each.user_id).encode(), encode(each))
        for each in requests
    )
    publisher.flush()


def request(user: int | None = None, **fields: object) -> FeedRequest:
    made = {"request_id": uuid.uuid4().hex, "user_id": user or next(viewers), "at": WallClock().now_ms()} | fields
    return msgspec.convert(made, FeedRequest)


def answers(settings: Settings, requests: Sequence[FeedRequest]) -> list[FeedServed]:
    """The ledger's record of each request, after all have one."""
    with redis.Redis.from_url(settings.redis) as client:

        def known() -> list[FeedServed]:
            records = [record_in(client, published_form(each.user_id), each.request_id) for each in requests]
            return [record for record in records if record]

        eventually(lambda: len(known()) == len(requests))
        return known()


def published(settings: Settings, requests: Sequence[FeedRequest]) -> list[list[FeedServed]]:
    """The records of each request in `feeds-served`."""
    found: dict[str, list[FeedServed]] = {each.request_id: [] for each in requests}
    for batch in scan(settings, ["feeds-served"]):
        for message in batch:
            record = unpack_feed_served(message.value() or b"")
            if record.request_id in found:
                found[record.request_id].append(record)
    return list(found.values())


def uncommitted(settings: Settings) -> int:
    """The number of requests that the group has not committed."""
    return lag(admin(settings), settings, "feed-worker", ends_of(settings, ["feed-requests"]))


def await_commit(settings: Settings) -> None:
    """Wait until all requests so far are committed."""
    client, ends = admin(settings), ends_of(settings, ["feed-requests"])
    eventually(lambda: not lag(client, settings, "feed-worker", ends))


def test_requests_are_answered_committed_and_counted_and_the_worker_is_registered(
    settings: Settings, store: PostStore, client: redis.Redis
) -> None:
    asked = [request() for _ in range(20)]
    with running(settings, store) as worker:
        ask(settings, *asked)
        assert {record.status for record in answers(settings, asked)} == {"ok"}
        await_commit(settings)
        (ready,) = ready_workers(client)
        assert ready["model_version"] == FixedModel.version
        eventually(lambda: worker.worker.lag == {0: 0, 1: 0})
        assert worker.figure("foryou_requests_total", status="ok") == 20
        assert worker.figure("foryou_feed_latency_seconds_count") == 20
        assert worker.worker.waits_for is None
    assert worker.failure is None
    assert ready_workers(client) == []
    for each, record in zip(asked, answers(settings, asked), strict=True):
        feed = feed_in(client, published_form(each.user_id))
        assert feed is not None
        assert [int(item.post_id) for item in feed.items] == record.post_ids != []
    assert published(settings, asked) == [[record] for record in answers(settings, asked)]


def test_a_lost_registry_entry_is_written_again(
    settings: Settings, store: PostStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed_worker.serving.worker_registry.HEARTBEAT_S", 0.1)
    with running(settings, store):
        eventually(lambda: bool(ready_workers(client)))
        client.flushall()
        eventually(lambda: bool(ready_workers(client)))


def test_batches_in_flight_are_finished_and_committed_before_a_worker_leaves(
    settings: Settings, store: PostStore
) -> None:
    asked = [request() for _ in range(40)]
    with running(settings, store) as worker:
        eventually(lambda: worker.worker.waits_for is None)
        ask(settings, *asked)
        eventually(lambda: bool(worker.figure("foryou_batch_size_count")))
    assert worker.failure is None
    done = sum(map(bool, published(settings, asked)))
    assert done > 0
    assert uncommitted(settings) == len(asked) - done


def test_partitions_move_to_another_worker_after_batches_in_flight_are_committed(
    settings: Settings, store: PostStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, busy, leaving, drained = request(), threading.Event(), threading.Event(), list[bool]()
    drain, pipeline = StageThreads.drain, pipeline_on(store, UserStates(client))
    finish = pipeline.finish

    def finish_late(runs: Sequence[RequestRun]) -> list[Result]:
        busy.set()
        assert leaving.wait(60)
        return finish(runs)

    def note(line: StageThreads[Batch], wait_s: float) -> bool:
        leaving.set()
        drained.append(drain(line, wait_s))
        return drained[-1]

    pipeline.finish = finish_late  # type: ignore[method-assign]
    with running(settings, store, pipeline) as one:
        eventually(lambda: one.worker.waits_for is None)
        ask(settings, asked)
        assert busy.wait(60)
        monkeypatch.setattr(StageThreads, "drain", note)
        with running(settings, store) as other:
            eventually(lambda: other.worker.waits_for is None)
            eventually(lambda: not uncommitted(settings))
    assert drained[0]
    assert len(published(settings, [asked])[0]) == 1


def test_a_batch_in_flight_keeps_its_model_and_the_next_batch_gets_the_new_one(
    settings: Settings, store: PostStore, client: redis.Redis
) -> None:
    before, after, busy, release = request(), request(), threading.Event(), threading.Event()
    users = UserStates(client)
    pipeline, following = (
        pipeline_on(store, users),
        foryou_pipeline(store, VectorIndex(), FixedModel(version="fixed-2"), users),
    )
    finish = pipeline.finish

    def finish_late(runs: Sequence[RequestRun]) -> list[Result]:
        busy.set()
        assert release.wait(60)
        return finish(runs)

    pipeline.finish = finish_late  # type: ignore[method-assign]
    with running(settings, store, pipeline) as worker:
        ask(settings, before)
        assert busy.wait(60)
        worker.worker.swap(following, "fixed-2")
        ask(settings, after)
        eventually(lambda: worker.worker.runner.model_version == "fixed-2")
        assert worker.worker.model_versions == {"fixed-1", "fixed-2"}
        release.set()
        assert [record.model_version for record in answers(settings, [before, after])] == ["fixed-1", "fixed-2"]
        eventually(lambda: worker.worker.model_versions == {"fixed-2"})
        eventually(lambda: [each["model_version"] for each in ready_workers(client)] == ["fixed-2"])
        assert following.stats["phoenix_scorer"].calls == 2
    assert worker.failure is None


def test_an_invalid_message_becomes_a_whole_dead_letter_and_the_worker_continues(
    settings: Settings, store: PostStore
) -> None:
    asked = request()
    far = request(at=WallClock().now_ms() + 10 * settings.future_tolerance_ms)
    with running(settings, store):
        ask(settings, b"not a request", far, asked)
        assert [record.status for record in answers(settings, [asked])] == ["ok"]
        await_commit(settings)
    dead_letters: list[DeadLetter] = [
        unpack_dead_letter(m.value() or b"") for batch in scan(settings, ["dead-letters"]) for m in batch
    ]
    assert {each.value for each in dead_letters} >= {b"not a request", encode(far)}
    assert [[record.status for record in copies] for copies in published(settings, [far])] == [["failed"]]


class FailsFor(Exception):
    pass


@pytest.mark.parametrize("step", ["gather", "rank", "finish", "feed_of"])
def test_a_request_that_raises_is_failed_and_the_others_are_answered(
    settings: Settings, store: PostStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    poison, others = request(), [request() for _ in range(5)]
    pipeline = pipeline_on(store, UserStates(client))

    def raising(original: Callable[..., object], mentions: Callable[..., bool]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            if mentions(*arguments):
                raise FailsFor(step)
            return original(*arguments)

        return call

    def is_poison(query: Query) -> bool:
        return query.request.request_id == poison.request_id

    if step == "feed_of":
        made = raising(feed_of, lambda result, *_: is_poison(result.query) and result.status != "failed")
        monkeypatch.setattr(delivery, "feed_of", made)
    elif step == "gather":
        monkeypatch.setattr(pipeline, "gather", raising(pipeline.gather, lambda queries: any(map(is_poison, queries))))
    else:
        original = getattr(pipeline, step)
        setattr(pipeline, step, raising(original, lambda runs: any(is_poison(run.query) for run in runs)))
    with running(settings, store, pipeline):
        ask(settings, poison, *others)
        assert [record.status for record in answers(settings, [poison, *others])] == ["failed", *5 * ["ok"]]
        await_commit(settings)
    feed = feed_in(client, published_form(poison.user_id))
    assert feed is not None
    assert feed.degradations == ["FailsFor"]


def test_a_request_that_is_refused_is_answered_with_the_reason_where_its_asker_can_be_read(
    settings: Settings, store: PostStore, client: redis.Redis
) -> None:
    good = request()
    far = request(at=WallClock().now_ms() + settings.future_tolerance_ms + 60_000)
    fields = [
        {"size": 500},
        {"at": WallClock().now_ms() // 1_000},
        {"at": "now"},
        {"seen_ids": [1] * 10_001},
        {"langs": "en"},
        {"type": None},
    ]
    broken = [msgspec.json.encode(msgspec.to_builtins(request()) | each) for each in fields]
    askers = [(str(each["user_id"]), each["request_id"]) for each in map(msgspec.json.decode, broken)]

    def records() -> list[FeedServed]:
        found = [record_in(client, *asker) for asker in askers]
        return [record for record in found if record]

    with running(settings, store) as worker:
        ask(settings, *broken, far, b'{"request_id":"r","user_id":"a b"}', good)
        assert [record.status for record in answers(settings, [good, far])] == ["ok", "failed"]
        eventually(lambda: len(records()) == len(askers))
        await_commit(settings)
    assert worker.failure is None
    expected = ("size", "seconds, most likely", "got `str`", "seen_ids", "langs", "type")
    for served, reason in zip(records(), expected, strict=True):
        assert served.status == "failed"
        assert served.degradations[0].startswith("refused: ")
        assert reason in served.degradations[0]
    record = record_in(client, str(far.user_id), far.request_id)
    assert record is not None
    assert "s ahead of the arrival" in record.degradations[0]
    letters = [unpack_dead_letter(m.value() or b"") for batch in scan(settings, ["dead-letters"]) for m in batch]
    assert {each.value for each in letters} >= {*broken, encode(far)}


def test_a_request_with_ten_thousand_long_seen_ids_is_answered_and_a_larger_one_gets_the_reason(
    settings: Settings, store: PostStore
) -> None:
    seen = [f"at://{number:06}/{'x' * 243}" for number in range(10_000)]
    asked = request(seen_ids=[*seen[1:], 40], size=40)
    larger = msgspec.structs.replace(request(), seen_ids=[each + "x" * 80 for each in seen])
    with running(settings, store) as worker:
        ask(settings, asked, larger)
        answer, refused = answers(settings, [asked, larger])
        await_commit(settings)
    assert worker.failure is None
    assert answer.status == "ok"
    assert 40 not in answer.post_ids
    assert refused.status == "failed"
    assert "bytes; at most 3,145,728 are allowed" in refused.degradations[0]


def test_one_viewer_with_thousands_of_requests_delays_no_other_viewer(
    settings: Settings, store: PostStore, client: redis.Redis
) -> None:
    flooding = next(viewers)
    flood = [request(flooding, seen_ids=[number + 1]) for number in range(2_000)]
    others = [request() for _ in range(10)]
    computed = list[int]()
    pipeline = pipeline_on(store, UserStates(client))
    gather = pipeline.gather

    def noted(queries: Sequence[Query]) -> list[RequestRun]:
        computed.extend(each.user_id for each in queries)
        return gather(queries)

    pipeline.gather = noted  # type: ignore[method-assign]
    ask(settings, *flood, *others)
    with running(settings, store, pipeline) as worker:
        assert {record.status for record in answers(settings, others)} == {"ok"}
        before = computed[: max(computed.index(int(each.user_id)) for each in others)]
        assert before.count(flooding) <= MAX_COMPUTATIONS
        statuses = [record.status for record in answers(settings, flood)]
        await_commit(settings)
    assert worker.failure is None
    assert "failed" in statuses
    assert len(statuses) - statuses.count("failed") >= MAX_COMPUTATIONS  # some may be empty: the viewer has seen all


def test_requests_of_apps_whose_clocks_differ_are_answered_in_the_order_of_their_arrival(
    settings: Settings, store: PostStore, client: redis.Redis
) -> None:
    viewer, now_ms = next(viewers), WallClock().now_ms()
    fast, slow = request(viewer, at=now_ms + 60_000, size=5), request(viewer, at=now_ms - 25_000, size=6)
    with running(settings, store):
        ask(settings, fast)
        (first,) = answers(settings, [fast])
        ask(settings, slow)
        (second,) = answers(settings, [slow])
    feed = feed_in(client, str(viewer))
    assert feed is not None
    assert feed.request_id == slow.request_id
    assert (first.status, second.status) == ("ok", "ok")
    assert not set(first.post_ids) & set(second.post_ids)


def test_a_request_of_a_slow_clock_without_a_deadline_is_answered(settings: Settings, store: PostStore) -> None:
    asked = [request(at=WallClock().now_ms() - slow_ms) for slow_ms in (31_000, 600_000)]
    with running(settings, store):
        ask(settings, *asked)
        assert [record.status for record in answers(settings, asked)] == ["ok", "ok"]


@pytest.mark.parametrize("behind_ms", [1_300, 11_000, -4_000])
def test_a_broker_with_another_clock_makes_no_wait_longer(
    settings: Settings, store: PostStore, monkeypatch: pytest.MonkeyPatch, behind_ms: int
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("feed_worker.serving.intake.arrived_ms", lambda message, *_: message.timestamp()[1] - behind_ms)
    with running(settings.model_copy(update={"max_wait_ms": 10_000, "future_tolerance_ms": 60_000}), store) as worker:
        eventually(lambda: worker.worker.waits_for is None)
        eventually(lambda: bool(worker.worker._intake._arrivals._reached_ms))
        for _ in range(5):
            asked = request()
            ask(settings, asked)
            assert [record.status for record in answers(settings, [asked])] == ["ok"]


def test_a_viewer_with_several_different_requests_sees_no_post_twice(settings: Settings, store: PostStore) -> None:
    viewer, at = next(viewers), WallClock().now_ms()
    asked = [request(viewer, at=at, size=size) for size in range(3, 8)]
    with running(settings, store):
        ask(settings, *asked)
        posts = [record.post_ids for record in answers(settings, asked)]
    assert [len(each) for each in posts] == [3, 4, 5, 6, 7]
    assert len(set().union(*posts)) == sum(range(3, 8))


def test_queued_equal_requests_of_a_viewer_are_computed_once(settings: Settings, store: PostStore) -> None:
    viewer, at = next(viewers), WallClock().now_ms()
    asked = [request(viewer, at=at + age) for age in range(30)]
    ask(settings, *asked)
    with running(settings, store) as worker:
        assert len({tuple(record.post_ids) for record in answers(settings, asked)}) == 1
        assert worker.figure("foryou_feeds_total") == 1


def test_a_request_that_waited_too_long_is_failed_and_one_past_its_deadline_expired(
    settings: Settings, store: PostStore, client: redis.Redis
) -> None:
    late, expired = request(), request(at=WallClock().now_ms() - 5_000, deadline_ms=1_000)
    ask(settings, late, expired)
    time.sleep(0.05)
    with running(settings.model_copy(update={"max_wait_ms": 1}), store) as worker:
        assert [record.status for record in answers(settings, [late, expired])] == ["failed", "expired"]
        assert worker.figure("foryou_requests_shed_total", status="failed") == 1
        assert worker.figure("foryou_feeds_total") == 0
    feed = feed_in(client, published_form(late.user_id))
    assert feed is not None
    assert feed.degradations[0].startswith("overloaded: waited")


def test_under_load_feeds_are_made_from_fewer_candidates_and_are_degraded(
    settings: Settings, store: PostStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request()
    ask(settings, asked)
    time.sleep(0.05)
    monkeypatch.setattr("feed_worker.serving.admission.QUEUED_MS", 10)
    with running(settings, store):
        assert [record.status for record in answers(settings, [asked])] == ["degraded"]
    feed = feed_in(client, published_form(asked.user_id))
    assert feed is not None
    assert feed.degradations == ["overloaded: fewer candidates"]


def test_a_request_that_was_answered_before_keeps_its_answer(
    settings: Settings, store: PostStore, client: redis.Redis
) -> None:
    asked = request()
    document = msgspec.structs.replace(feed_document(asked.at, [asked.request_id], "ok", 2), user_id=str(asked.user_id))
    before: Answer = answer_of(document)
    FeedStore(client, 60).write([before])
    users = UserStates(client)
    users.add_served(str(asked.user_id), before.served[0].post_ids, asked.at, asked.request_id)
    ask(settings, asked)
    with running(settings, store) as worker:
        await_commit(settings)
        assert worker.figure("foryou_requests_repeated_total") == 1
    assert published(settings, [asked]) == [list(before.served)]
    assert feed_in(client, str(asked.user_id)) == document
    (state,) = users.read([str(asked.user_id)])
    assert state.served_ids.tolist() == before.served[0].post_ids


def test_every_request_gets_one_status_while_workers_join_and_leave(settings: Settings, store: PostStore) -> None:
    asked: list[FeedRequest] = []

    def ask_more() -> None:
        more = [request() for _ in range(30)]
        asked.extend(more)
        ask(settings, *more)

    with running(settings, store) as first:
        ask_more()
        with running(settings, store) as second:
            ask_more()
            eventually(lambda: second.worker.waits_for is None)
            ask_more()
            eventually(lambda: bool(second.figure("foryou_requests_total", status="ok")))
        ask_more()
        assert {record.status for record in answers(settings, asked)} == {"ok"}
        await_commit(settings)
    assert first.failure is None
    assert second.failure is None
    for record, copies in zip(answers(settings, asked), published(settings, asked), strict=True):
        assert copies
        assert all(copy == record for copy in copies)


class Deaf(QueryHydrator):
    """A hydrator whose Redis is away for two calls."""

    def __init__(self, within: QueryHydrator) -> None:
        self._within, self.calls = within, 0

    def hydrate(self, queries: Sequence[Query]) -> list[QueryFields]:
        self.calls += 1
        if self.calls < 3:
            raise redis.ConnectionError("away")
        return self._within.hydrate(queries)


def test_a_lost_or_broken_state_fails_its_own_viewer_with_the_reason_and_a_lost_register_fails_all(
    settings: Settings, store: PostStore, client: redis.Redis
) -> None:
    lost, broken, new, blocked = 42, 7, 43, 72
    users = UserStates(client)
    for number, target in enumerate((blocked, 70)):
        users.append(updates_of(Follow(user_id=lost, target_id=target, at=1_700_000_000_000)), f"0-{number}")
    users.append(updates_of(Block(user_id=lost, target_id=blocked, at=1_700_000_000_001)), "0-9")
    with running(settings, store):
        asked = request(lost)
        ask(settings, asked)
        assert [record.status for record in answers(settings, [asked])] == ["ok"]
        client.delete(user_key(str(lost)))
        client.set(user_key(str(broken)), "x")
        requests = [request(lost), request(broken), request(new)]
        ask(settings, *requests)
        records = answers(settings, requests)
        assert [record.status for record in records] == ["failed", "failed", "ok"]
        assert "the state of user 42 is missing in Redis" in records[0].degradations[0]
        assert "user:{7} in Redis cannot be read" in records[1].degradations[0]
        client.flushall()
        requests = [request(lost), request(new)]
        ask(settings, *requests)
        assert [record.status for record in answers(settings, requests)] == ["failed", "failed"]


def test_the_worker_waits_while_redis_is_away(settings: Settings, store: PostStore, client: redis.Redis) -> None:
    pipeline = pipeline_on(store, UserStates(client))
    deaf = Deaf(pipeline.query_hydrators[0])
    asked = request()
    with running(settings, store, replace(pipeline, query_hydrators=[deaf])):
        ask(settings, asked)
        assert [record.status for record in answers(settings, [asked])] == ["ok"]
    assert deaf.calls == 3


def test_readiness_follows_outages_and_the_group_and_health_the_steps_of_the_worker(
    settings: Settings, store: PostStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = outage("Test", "nowhere")
    with running(settings, store) as started:
        worker, reported = started.worker, list[object]()
        waiting.eventually(lambda: worker.waits_for is None)
        monkeypatch.setattr(worker_module, "STALLED_S", -1.0)
        away.begins("no reply")
        reported += [worker.waits_for, worker.problem]
        away.ends()
        reported += [worker.waits_for, "though all servers answer" in str(worker.problem)]
        worker._intake.is_member = False
        reported.append(worker.waits_for)
    assert reported == [
        *("Test at nowhere is unreachable (no reply)", None),  # it waits for a server
        *(None, True),
        "the group to assign partitions",
    ]


def test_a_fatal_error_ends_the_worker_with_its_reason_and_the_next_one_answers(
    settings: Settings, store: PostStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request()

    def refuse(*_: object) -> None:
        raise redis.exceptions.NoPermissionError("this user has no permissions")

    with monkeypatch.context() as patched:
        patched.setattr(FeedStore, "write", refuse)
        worker = Running(settings, store)
        ask(settings, asked)
        worker.wait()
        assert isinstance(worker.failure, RedisRefused)
        assert uncommitted(settings) == 1
    with running(settings, store):
        assert [record.status for record in answers(settings, [asked])] == ["ok"]


def test_a_check_is_answered_by_the_safety_rules_alone_and_leaves_no_trace(
    settings: Settings, store: PostStore, client: redis.Redis
) -> None:
    now_ms = WallClock().now_ms()
    store.apply(
        [Post(post_id=3, author_id=0, labels={"spam": now_ms}), Post(post_id=4, author_id=0, deleted_at=now_ms)]
    )
    user = next(viewers)
    feed_before, check = request(user), request(user, check_ids=[5, 3, 4, 6, 999])
    with running(settings, store) as worker:
        ask(settings, feed_before)
        answers(settings, [feed_before])
        before = client.get(feed_key(str(user))), client.hgetall(user_key(str(user)))
        ask(settings, check)
        eventually(lambda: client.get(preview_key(str(user), check.request_id)) is not None)
        answer = decode_feed(cast(bytes, client.get(preview_key(str(user), check.request_id))))
        await_commit(settings)
        assert (client.get(feed_key(str(user))), client.hgetall(user_key(str(user)))) == before
    assert worker.failure is None
    assert answer is not None
    assert (answer.status, {item.post_id for item in answer.items}) == ("ok", {"5", "6"})
    assert record_in(client, str(user), check.request_id) is None
    assert published(settings, [check]) == [[]]


def test_labels_that_no_parameter_names_are_registered_for_doctor(
    settings: Settings, store: PostStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed_worker.serving.worker_registry.HEARTBEAT_S", 0.1)
    labels = {" NSFW": 1, "Spam": 1, "adult": 1}
    store.apply([Post(post_id=3, author_id=0, labels=labels)])
    with running(settings, store):
        eventually(lambda: [each["unknown_labels"] for each in ready_workers(client)] == [["nsfw"]])
        (check,) = [check for check in examine(settings) if check.name == "labels"]
        assert (check.state, check.detail) == ("warn", "hide nothing: nsfw")
