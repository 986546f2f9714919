"""A worker on a real broker and a real Redis: start, rebalance, model swap, outage, end."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
import redis

from feed_worker.candidates.query import Query
from feed_worker.framework.components import QueryFields, QueryHydrator
from feed_worker.framework.request_run import RequestRun, Result
from feed_worker.pipeline import foryou_pipeline
from feed_worker.serving import worker as worker_module
from feed_worker.serving.admission import Admission
from feed_worker.serving.batch import Batch
from feed_worker.serving.feed_store import FeedStore
from feed_worker.serving.stage_threads import StageThreads
from feed_worker.serving.worker_registry import ready_workers
from infra.ops.doctor import examine
from infra.ports.errors import RedisRefused
from infra.ports.outage import outage
from infra.ports.settings import Settings
from phoenix.index.retrieval_index import VectorIndex
from tests.feed_worker.builders import FixedModel
from tests.feed_worker.client.answering import feed_in
from tests.feed_worker.serving.worker.running import (
    Running,
    answers,
    ask,
    await_commit,
    eventually,
    pipeline_on,
    published,
    request,
    running,
    uncommitted,
)
from tests.infra import waiting
from thunder_ingest.events import (
    FeedRequest,
    Post,
)
from thunder_ingest.events.ids import published_form
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.redis_form import UserStates

pytestmark = pytest.mark.embedded


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
    settings: Settings, store: PostStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed_worker.serving.delivery.LONG_WAIT_S", 600.0)  # nothing is computed twice
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
        eventually(lambda: worker.worker.runner.model_version == "fixed-2")
        ask(settings, after)
        assert worker.worker.model_versions == {"fixed-1", "fixed-2"}
        release.set()
        assert [record.model_version for record in answers(settings, [before, after])] == ["fixed-1", "fixed-2"]
        eventually(lambda: worker.worker.model_versions == {"fixed-2"})
        eventually(lambda: [each["model_version"] for each in ready_workers(client)] == ["fixed-2"])
        assert following.stats["phoenix_scorer"].calls == 2
    assert worker.failure is None


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


def test_the_worker_waits_while_redis_is_away(settings: Settings, store: PostStore, client: redis.Redis) -> None:
    pipeline = pipeline_on(store, UserStates(client))
    deaf = Deaf(pipeline.query_hydrators[0])
    asked = request()
    with running(settings, store, replace(pipeline, query_hydrators=[deaf])):
        ask(settings, asked)
        assert [record.status for record in answers(settings, [asked])] == ["ok"]
    assert deaf.calls == 3


def test_a_wait_for_a_server_counts_as_no_service_time(
    settings: Settings, store: PostStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = pipeline_on(store, UserStates(client))
    deaf = Deaf(pipeline.query_hydrators[0])
    observed, first, second = list[float](), request(), request()
    monkeypatch.setattr(Admission, "observe_service_time", lambda _, took_ms: observed.append(took_ms))
    with running(settings, store, replace(pipeline, query_hydrators=[deaf])):
        ask(settings, first)
        answers(settings, [first])
        await_commit(settings)
        ask(settings, second)
        answers(settings, [second])
        await_commit(settings)
    assert len(observed) == 1


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
