"""A worker's metrics for Prometheus: counters that its threads update, and state that each scrape reads."""

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
    """The counters and histograms of batches. Any thread may call.

    Args:
        registry: takes the metrics.

    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter("foryou_requests", "Feed requests answered", ["status"], registry=registry)
        for status in get_args(FeedStatus):
            self._requests.labels(status)  # export zero counters, so that rate() works from the first scrape
        self._computed = Counter("foryou_feeds", "Feeds computed; merged requests count once", registry=registry)
        self._shed = Counter(
            "foryou_requests_shed", "Requests refused without work (load shedding)", ["status"], registry=registry
        )
        for status in ("expired", "failed"):
            self._shed.labels(status)
        self._repeated = Counter(
            "foryou_requests_repeated",
            "Requests whose id was answered before; the first answer stands",
            registry=registry,
        )
        self._dead_letters = Counter("foryou_dead_letters", "Messages that were no valid requests", registry=registry)
        self._sizes = Histogram("foryou_batch_size", "Feeds computed in a batch", buckets=BATCHES, registry=registry)
        self._waits = Histogram(
            "foryou_queue_wait_seconds",
            "From arrival at the broker to the forming of the batch",
            buckets=SECONDS,
            registry=registry,
        )
        self._latencies = Histogram(
            "foryou_feed_latency_seconds",
            "From arrival at the broker to the announcement",
            buckets=SECONDS,
            registry=registry,
        )
        self._quality = Gauge(
            "foryou_quality", "Share of candidates that sources fetch; less under load", registry=registry
        )
        self._quality.set(1.0)

    def batch_formed(self, batch: Batch, now_ms: int, quality: float) -> None:
        """Count a batch that was formed; `now_ms` is the time of its forming."""
        computed = [each for each in batch.computations if each.result is None]
        self._quality.set(quality)
        self._computed.inc(len(computed))
        self._dead_letters.inc(len(batch.dead_letters))
        if computed:
            self._sizes.observe(len(computed))
        for each in batch.computations:
            self._waits.observe(max(0, now_ms - each.merged.newest.waits_since_ms) / 1000)
            if each.result is not None:
                self._shed.labels(each.result.status).inc()

    def request_repeated(self) -> None:
        """Count a request whose id was answered before."""
        self._repeated.inc()

    def batch_delivered(self, batch: Batch, statuses: Sequence[FeedStatus], announced_ms: int) -> None:
        """Count a delivered batch, given the status of each request and the time of the ready messages."""
        for status in statuses:
            self._requests.labels(status).inc()
        for each in batch.computations:
            for received in each.merged.received:
                self._latencies.observe(max(0, announced_ms - received.waits_since_ms) / 1000)


class StateCollector(Collector):
    """Reads the state at each scrape, in the thread of the scrape; the functions must be safe to call there.

    Args:
        runner: the pipeline and model of the next batch, with the statistics of components and stages.
        posts: the number of posts in the store.
        vectors: the number of vectors of a model in the index.
        lag: requests that are not yet answered, by partition of this worker.
        model_status: version and state of the announced model; None if no model was announced.

    """

    def __init__(
        self,
        runner: Callable[[], BatchRunner],
        posts: Callable[[], int],
        vectors: Callable[[str], int],
        lag: Callable[[], Mapping[int, int]],
        model_status: Callable[[], tuple[str, str] | None],
    ) -> None:
        self._runner, self._posts, self._vectors, self._lag = runner, posts, vectors, lag
        self._model_status = model_status

    def collect(self) -> Iterator[Metric]:
        """The current metrics."""
        runner = self._runner()
        vectors = self._vectors(runner.model_version)
        yield GaugeMetricFamily("foryou_posts", "Posts in the store", self._posts())
        yield GaugeMetricFamily("foryou_index_vectors", "Posts in the retrieval index", vectors)
        model = GaugeMetricFamily("foryou_model", "The model that scores", labels=["version"])
        model.add_metric([runner.model_version], 1)
        yield model
        announced = GaugeMetricFamily(
            "foryou_model_announced", "The announced model and its state", labels=["version", "state"]
        )
        if status := self._model_status():
            announced.add_metric(status, 1)
        yield announced
        lag = GaugeMetricFamily("foryou_lag", "Requests that are not yet answered", labels=["partition"])
        for partition, behind in self._lag().items():
            lag.add_metric([str(partition)], behind)
        yield lag
        yield from _statistics("component", runner.pipeline.stats)
        yield from _statistics("stage", runner.pipeline.stage_stats)


def _statistics(kind: str, stats: Mapping[str, ComponentStatistics]) -> Iterator[Metric]:
    """The metric families of one kind of statistics."""
    seconds = HistogramMetricFamily(f"foryou_{kind}_seconds", f"Wall time of a {kind}'s calls", labels=[kind])
    over = CounterMetricFamily(f"foryou_{kind}_over_budget", "Calls that exceeded their budget", labels=[kind])
    for name, each in stats.items():
        seconds.add_metric([name], [(_bound(bound), count) for bound, count in each.cumulative], each.total_ms / 1000)
        over.add_metric([name], each.over_budget)
    yield from (seconds, over)
    if kind == "component":
        yield from _candidates(stats)


def _candidates(stats: Mapping[str, ComponentStatistics]) -> Iterator[Metric]:
    kept = CounterMetricFamily("foryou_component_kept", "Candidates that left a component", labels=["component"])
    removed = CounterMetricFamily(
        "foryou_component_removed", "Candidates that a component removed", labels=["component"]
    )
    errors = CounterMetricFamily(
        "foryou_component_errors", "Requests that failed in a component", labels=["component", "error"]
    )
    for name, each in stats.items():
        kept.add_metric([name], each.left)
        removed.add_metric([name], each.removed)
        for error, count in each.errors_by_kind.items():
            errors.add_metric([name, error], count)
    yield from (kept, removed, errors)


def _bound(seconds: float) -> str:
    return "+Inf" if math.isinf(seconds) else f"{seconds:g}"
