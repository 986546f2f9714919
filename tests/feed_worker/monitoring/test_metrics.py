import threading
from typing import Any, cast

from prometheus_client import CollectorRegistry

from feed_worker.monitoring.metrics import StateCollector, WorkerMetrics
from feed_worker.pipeline import foryou_pipeline
from feed_worker.serving.batch import Batch, BatchRunner, Computation
from feed_worker.serving.offsets import MessageOffset
from feed_worker.serving.request_queue import MergedRequest, ReceivedRequest
from infra.ports.redis import RedisRetry
from infra.ports.settings import load
from phoenix.index.retrieval_index import VectorIndex
from tests.feed_worker.builders import NOW_MS, FixedModel, KnownUsers, post, query, store_of
from thunder_ingest.events import FeedRequest


def computation(*request_ids: str, arrived_ms: int = NOW_MS) -> Computation:
    requests = [FeedRequest(request_id=each, user_id=1, at=NOW_MS) for each in request_ids]
    place = MessageOffset(("feed-requests", 0), 0)
    received = [ReceivedRequest(each, arrived_ms, arrived_ms, arrived_ms, place) for each in requests]
    return Computation(MergedRequest(received), query())


def test_requests_feeds_waits_and_latencies_are_counted() -> None:
    registry = CollectorRegistry()
    metrics, figure = WorkerMetrics(registry), registry.get_sample_value
    late = computation("late", arrived_ms=NOW_MS - 20_000)
    late.end("failed", "overloaded: waited 20.0 s")
    batch = Batch(cast(Any, None), [computation("a", "b"), late], [], 0.0)
    metrics.batch_formed(batch, NOW_MS + 40, 0.7)
    metrics.batch_delivered(batch, ["ok", "ok", "failed"], NOW_MS + 240)
    assert figure("foryou_requests_total", {"status": "ok"}) == 2
    assert figure("foryou_requests_total", {"status": "degraded"}) == 0
    assert figure("foryou_requests_shed_total", {"status": "failed"}) == 1
    assert figure("foryou_feeds_total") == 1
    assert figure("foryou_quality") == 0.7
    assert figure("foryou_queue_wait_seconds_bucket", {"le": "0.05"}) == 1
    assert figure("foryou_feed_latency_seconds_bucket", {"le": "0.2"}) == 0
    assert figure("foryou_feed_latency_seconds_bucket", {"le": "0.3"}) == 2
    assert figure("foryou_feed_latency_seconds_count") == 3


def test_each_scrape_reads_components_and_state() -> None:
    registry = CollectorRegistry()
    store, index = store_of(post(1), post(2, 1)), VectorIndex()
    pipeline = foryou_pipeline(store, index, FixedModel(), KnownUsers())
    runner = BatchRunner(pipeline, "fixed-1", RedisRetry(load(), threading.Event()), lambda query: query)
    registry.register(
        StateCollector(lambda: runner, store.__len__, index.count, lambda: {0: 3}, lambda: ("fixed-2", "loading"))
    )
    figure = registry.get_sample_value
    assert figure("foryou_component_kept_total", {"component": "self_post_filter"}) == 0
    pipeline.run([query(user_id=1)])
    assert figure("foryou_posts") == 2
    assert figure("foryou_index_vectors") == 0
    assert figure("foryou_model", {"version": "fixed-1"}) == 1
    assert figure("foryou_model_announced", {"version": "fixed-2", "state": "loading"}) == 1
    assert figure("foryou_lag", {"partition": "0"}) == 3
    assert figure("foryou_component_removed_total", {"component": "self_post_filter"}) == 1
    assert figure("foryou_component_kept_total", {"component": "self_post_filter"}) == 1
    assert figure("foryou_component_seconds_count", {"component": "phoenix_scorer"}) == 1
    assert figure("foryou_component_seconds_bucket", {"component": "phoenix_scorer", "le": "+Inf"}) == 1
    assert figure("foryou_stage_seconds_count", {"stage": "filter"}) == 1
