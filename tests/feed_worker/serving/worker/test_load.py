"""A worker with many requests, old ones, and clocks that differ."""

import time
from collections.abc import Sequence

import pytest
import redis

from feed_worker.candidates.query import Query
from feed_worker.framework.request_run import RequestRun
from feed_worker.serving.request_queue import MAX_COMPUTATIONS
from infra.ports.clock import WallClock
from infra.ports.settings import Settings
from tests.feed_worker.client.answering import feed_in
from tests.feed_worker.serving.worker.running import (
    answers,
    ask,
    await_commit,
    eventually,
    pipeline_on,
    request,
    running,
    viewers,
)
from thunder_ingest.events.ids import published_form
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.redis_form import UserStates

pytestmark = pytest.mark.embedded


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
