"""A worker's figures for Prometheus: what its threads count, and what it looks up when it is asked."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from feed_worker.framework.statistics import ComponentStatistics
from feed_worker.serving.batch import Batch, BatchRunner
from thunder_ingest.events import FeedStatus

SECONDS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class WorkerMetrics:
    """Counted as batches go by; for any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter("foryou_requests", "Feed requests answered", ["status"], registry=registry)
        for status in get_args(FeedStatus):
            self._requests.labels(status)  # a series that is not there cannot be told from one that stands still
        self._computed = Counter("foryou_feeds", "Computations: merged requests are one", registry=registry)
        self._shed = Counter("foryou_requests_shed", "Computations refused without work", ["status"], registry=registry)
        for status in ("expired", "failed"):
            self._shed.labels(status)
        self._dead_letters = Counter("foryou_dead_letters", "Messages that were no requests", registry=registry)
        self._sizes = Histogram("foryou_batch_size", "Computations of a batch", buckets=BATCHES, registry=registry)
        self._waits = Histogram(
            "foryou_queue_wait_seconds",
            "From arrival at the broker to a place in a batch",
            buckets=SECONDS,
            registry=registry,
        )
        self._latencies = Histogram(
            "foryou_feed_latency_seconds",
            "From arrival at the broker to the announcement",
            buckets=SECONDS,
            registry=registry,
        )
        self._quality = Gauge("foryou_quality", "Share of candidates looked for; less under load", registry=registry)
        self._quality.set(1.0)

    def formed(self, batch: Batch, now_ms: int, quality: float) -> None:
        """A batch has been formed."""
        computed = [each for each in batch.computations if each.result is None]
        self._quality.set(quality)
        self._computed.inc(len(computed))
        self._dead_letters.inc(len(batch.dead_letters))
        if computed:
            self._sizes.observe(len(computed))
        for each in batch.computations:
            self._waits.observe(max(0, now_ms - each.asked.arrived_ms) / 1000)
            if each.result is not None:
                self._shed.labels(each.result.status).inc()

    def delivered(self, batch: Batch, statuses: Sequence[FeedStatus], announced_ms: int) -> None:
        """A batch has been delivered; statuses are those of its requests, in order."""
        for status in statuses:
            self._requests.labels(status).inc()
        for each in batch.computations:
            for taken in each.asked.taken:
                self._latencies.observe(max(0, announced_ms - taken.arrived_ms) / 1000)


class StateCollector(Collector):
    """What is looked up at each scrape.

    Args:
        runner: what the next batch is made with: a model, and the running figures of components and stages.
        posts: how many the store holds.
        vectors: how many the index holds of a model.
        lag: messages not yet answered, by partition of this worker.
        announced: the model that is announced and what has become of it, if any is.

    """

    def __init__(
        self,
        runner: Callable[[], BatchRunner],
        posts: Callable[[], int],
        vectors: Callable[[str], int],
        lag: Callable[[], Mapping[int, int]],
        announced: Callable[[], tuple[str, str] | None],
    ) -> None:
        self._runner, self._posts, self._vectors, self._lag = runner, posts, vectors, lag
        self._announced = announced

    def collect(self) -> Iterator[Metric]:
        """The metrics as they stand."""
        runner = self._runner()
        vectors = self._vectors(runner.model_version)
        yield GaugeMetricFamily("foryou_posts", "Posts in the store", self._posts())
        yield GaugeMetricFamily("foryou_index_vectors", "Posts in the retrieval index", vectors)
        model = GaugeMetricFamily("foryou_model", "The model that scores", labels=["version"])
        model.add_metric([runner.model_version], 1)
        yield model
        announced = GaugeMetricFamily("foryou_model_announced", "What is announced", labels=["version", "state"])
        if told := self._announced():
            announced.add_metric(told, 1)
        yield announced
        lag = GaugeMetricFamily("foryou_lag", "Requests not yet answered", labels=["partition"])
        for partition, behind in self._lag().items():
            lag.add_metric([str(partition)], behind)
        yield lag
        yield from _figures("component", runner.pipeline.stats)
        yield from _figures("stage", runner.pipeline.stage_stats)


def _figures(kind: str, stats: Mapping[str, ComponentStatistics]) -> Iterator[Metric]:
    """The families of one kind of running figures."""
    seconds = HistogramMetricFamily(f"foryou_{kind}_seconds", f"Time that a {kind} took", labels=[kind])
    over = CounterMetricFamily(f"foryou_{kind}_over_budget", "Calls that took longer than they may", labels=[kind])
    for name, each in stats.items():
        seconds.add_metric([name], [(_bound(bound), count) for bound, count in each.cumulative], each.total_ms / 1000)
        over.add_metric([name], each.over_budget)
    yield from (seconds, over)
    if kind == "component":
        yield from _candidates(stats)


def _candidates(stats: Mapping[str, ComponentStatistics]) -> Iterator[Metric]:
    kept = CounterMetricFamily("foryou_component_kept", "Candidates that left a component", labels=["component"])
    removed = CounterMetricFamily("foryou_component_removed", "Candidates taken out", labels=["component"])
    errors = CounterMetricFamily("foryou_component_errors", "Requests that met an error", labels=["component", "error"])
    for name, each in stats.items():
        kept.add_metric([name], each.left)
        removed.add_metric([name], each.removed)
        for error, count in each.errors_by_kind.items():
            errors.add_metric([name, error], count)
    yield from (kept, removed, errors)


def _bound(seconds: float) -> str:
    return "+Inf" if math.isinf(seconds) else f"{seconds:g}"
