"""`python -m feed_worker` as a process: reported waits, readiness, drain."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from feed_worker.serving.worker_registry import ready_workers
from infra.ports.kafka_admin import create_topics
from infra.ports.settings import Settings, load
from infra.stack.embedded import EmbeddedKafka, EmbeddedRedis
from tests.e2e.containers import free_port
from tests.e2e.processes import Process
from tests.infra.ports.test_endpoints import get
from tests.infra.waiting import eventually

pytestmark = pytest.mark.embedded


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with EmbeddedKafka(tmp_path / "kafka") as kafka, EmbeddedRedis(tmp_path / "redis") as valkey:
        yield load(
            kafka=kafka.address,
            redis=valkey.address,
            partitions=2,
            session_timeout_ms=2_000,
            http_port=free_port(),
            log_format="json",
        )


def test_the_process_reports_its_waits_and_its_readiness_and_leaves_in_order(
    settings: Settings, tmp_path: Path
) -> None:
    create_topics(settings)
    worker = Process(settings, tmp_path / "worker.log", "feed_worker")
    texts: list[str] = []

    def is_ready() -> bool:
        with suppress(OSError):  # the port is not open yet
            status, text = get(settings.http_port, "/readyz")
            texts.append(text)
            return status == 200
        return False

    eventually(is_ready, 180)
    assert any(text.startswith("waiting for the models to be compiled: ranking, ") for text in texts)
    assert get(settings.http_port, "/healthz") == (200, "ok\n")
    metrics = get(settings.http_port, "/metrics").text
    assert 'foryou_requests_total{status="ok"} 0.0' in metrics
    assert 'foryou_component_seconds_count{component="phoenix_scorer"} 0.0' in metrics
    with redis.Redis.from_url(settings.redis) as client:
        eventually(lambda: len(ready_workers(client)) == 1)
        worker.terminate()
        assert worker.wait() == 0, worker.output()
        assert ready_workers(client) == []
    logged = [json.loads(line) for line in worker.output().splitlines()]
    assert any(each["message"].startswith("ready: 0 posts") for each in logged)
