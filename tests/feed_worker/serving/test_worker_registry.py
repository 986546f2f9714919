import json
import threading

import pytest
import redis

from feed_worker.serving import worker_registry
from feed_worker.serving.worker_registry import WorkerRegistry, ready_workers
from infra.ports.clock import now_ms
from infra.ports.redis import RedisRetry
from infra.ports.settings import load


@pytest.fixture
def own(valkey: redis.Redis) -> WorkerRegistry:
    return WorkerRegistry(valkey, RedisRetry(load(), threading.Event()), model_version="m", clock="wall")


def test_a_worker_is_ready_from_its_registration_to_its_end(valkey: redis.Redis, own: WorkerRegistry) -> None:
    own.heartbeat({})
    assert ready_workers(valkey) == []
    own.register()
    (entry,) = ready_workers(valkey)
    assert entry["model_version"] == "m"
    assert entry["ready_at"] <= entry["said_at"]
    own.unregister()
    assert ready_workers(valkey) == []


def test_an_entry_without_heartbeat_is_stale_and_the_hash_expires(
    valkey: redis.Redis, own: WorkerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = {"pid": 1, "said_at": now_ms() - worker_registry.STALE_MS}
    valkey.hset(worker_registry.READY_KEY, "killed", json.dumps(stale))
    own.register()
    assert len(valkey.hgetall(worker_registry.READY_KEY)) == 2
    assert [entry["model_version"] for entry in ready_workers(valkey)] == ["m"]
    assert 0 < valkey.pttl(worker_registry.READY_KEY) <= worker_registry.STALE_MS


def test_entries_of_workers_killed_long_ago_and_unreadable_ones_are_deleted_by_another_worker(
    valkey: redis.Redis, own: WorkerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEARTBEAT_S", "SWEEP_S"):
        monkeypatch.setattr(worker_registry, name, 0.0)
    own.register()
    (live,) = valkey.hkeys(worker_registry.READY_KEY)
    old = {"pid": 1, "said_at": now_ms() - worker_registry.FORGET_MS - 1}
    late = {"pid": 2, "said_at": now_ms() - worker_registry.STALE_MS}
    for name, entry in (("killed", json.dumps(old)), ("broken", "{"), ("late", json.dumps(late))):
        valkey.hset(worker_registry.READY_KEY, name, entry)
    own.heartbeat({})
    assert set(valkey.hkeys(worker_registry.READY_KEY)) == {live, b"late"}


def test_a_heartbeat_restores_a_lost_entry(
    valkey: redis.Redis, own: WorkerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.register()
    valkey.flushall()
    own.heartbeat({})
    assert ready_workers(valkey) == []
    monkeypatch.setattr(worker_registry, "HEARTBEAT_S", 0.0)
    own.heartbeat({})
    assert len(ready_workers(valkey)) == 1
