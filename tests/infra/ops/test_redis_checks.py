from collections.abc import Iterator

import pytest
import redis

from infra.ops.redis_checks import _persistence, redis_checks
from infra.ports.redis import SCRATCH_KEY
from thunder_ingest.users.register import UserRegister, declare_whole

WRITES = ("aof_last_write_status", "rdb_last_bgsave_status")


@pytest.fixture(autouse=True)
def default_configuration(valkey: redis.Redis) -> Iterator[None]:
    yield
    for name, value in (("maxmemory-policy", "noeviction"), ("appendonly", "no"), ("save", "")):
        valkey.config_set(name, value)


def states(client: redis.Redis) -> dict[str, str]:
    return {check.name: check.state for check in redis_checks(client)}


def test_a_redis_that_evicts_is_refused(valkey: redis.Redis) -> None:
    assert states(valkey)["eviction"] == "ok"
    for policy in ("allkeys-lru", "volatile-ttl"):
        valkey.config_set("maxmemory-policy", policy)
        assert states(valkey)["eviction"] == "fail"


def test_a_redis_without_persistence_is_refused(valkey: redis.Redis) -> None:
    assert states(valkey)["persistence"] == "fail"
    valkey.config_set("save", "3600 1")
    assert states(valkey)["persistence"] == "warn"
    valkey.config_set("appendonly", "yes")
    assert states(valkey)["persistence"] == "ok"


def test_a_scratch_redis_needs_no_persistence_but_a_failed_write_is_reported(valkey: redis.Redis) -> None:
    valkey.set(SCRATCH_KEY, 1)
    assert states(valkey)["persistence"] == "ok"
    assert [_persistence([{name: "err"}], False, is_scratch=True).state for name in WRITES] == ["fail", "fail"]


def test_a_missing_mark_and_a_lost_set_are_reported_with_the_remedy(valkey: redis.Redis) -> None:
    assert states(valkey)["users' state"] == "fail"
    UserRegister(valkey).begin_build("b", {})
    assert states(valkey)["users' state"] == "warn"
    valkey.flushall()
    declare_whole(valkey)
    assert states(valkey)["users' state"] == "ok"
    valkey.delete("users:known:7")
    (*_, users) = redis_checks(valkey)
    assert (users.state, "foryou rebuild users" in users.remedy) == ("fail", True)
