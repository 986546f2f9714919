"""The checks of Redis: eviction, persistence, and the users' state."""

from collections.abc import Iterator, Sequence
from typing import Any

import redis

from infra.ops.check import Check
from infra.ports.redis import SCRATCH_KEY, Client
from thunder_ingest.users.register import UserRegister

EVICTION = "set `maxmemory-policy noeviction`: an evicted user has lost blocks and mutes"
PERSISTENCE = "set `appendonly yes`: what is older than the log is in Redis alone"
REBUILD = "in a new deployment start flows.engagements, else run `foryou rebuild users`"


def redis_checks(client: Client) -> Iterator[Check]:
    """Check each Redis, or each primary of a cluster. Changes nothing; raises redis.RedisError."""
    memory, persistence = _info(client, "memory"), _info(client, "persistence")
    policies = {str(each.get("maxmemory_policy", "noeviction")) for each in memory}
    if policies == {"noeviction"}:
        yield Check("eviction", "ok", "noeviction")
    else:
        yield Check("eviction", "fail", f"maxmemory-policy is {', '.join(sorted(policies))}", EVICTION)
    yield _persistence(persistence, _saves(client), is_scratch=bool(client.exists(SCRATCH_KEY)))
    yield _users(UserRegister(client))


def _info(client: Client, section: str) -> Sequence[dict[str, Any]]:
    if isinstance(client, redis.Redis):
        return [client.info(section)]
    by_node: dict[str, Any] = client.info(section, target_nodes=client.get_primaries())
    return list(by_node.values()) if all(isinstance(each, dict) for each in by_node.values()) else [by_node]


def _saves(client: Client) -> bool:
    """True if Redis saves snapshots, or hides its configuration."""
    try:
        if isinstance(client, redis.Redis):
            return client.config_get("save").get("save") != ""
        replies: Any = client.config_get("save", target_nodes=client.get_primaries())
    except redis.ResponseError:  # a managed Redis may refuse CONFIG
        return True
    nodes = replies.values() if all(isinstance(each, dict) for each in replies.values()) else [replies]
    return all(each.get("save") != "" for each in nodes)


def _persistence(nodes: Sequence[dict[str, Any]], saves: bool, *, is_scratch: bool) -> Check:
    failed = [
        name
        for name in ("aof_last_write_status", "rdb_last_bgsave_status")
        if any(each.get(name, "ok") != "ok" for each in nodes)
    ]
    if failed:
        return Check("persistence", "fail", f"the last write has failed: {', '.join(failed)}", "see the log of Redis")
    if all(each.get("aof_enabled") for each in nodes):
        return Check("persistence", "ok", "appendonly")
    if saves:
        return Check("persistence", "warn", "snapshots only: a crash loses the last minutes", PERSISTENCE)
    if is_scratch:
        return Check("persistence", "ok", "off: `foryou up --fresh` keeps no data")
    return Check("persistence", "fail", "off: a restart loses the users' state", PERSISTENCE)


def _users(register: UserRegister) -> Check:
    if not register.is_damaged():
        return Check("users' state", "ok", "whole, unless single users were lost")
    if register.build():
        return Check("users' state", "warn", "is being built from the log; requests fail until its end", "wait")
    if register.mark() is None:
        return Check("users' state", "fail", "the mark of the last build is missing: requests fail", REBUILD)
    return Check("users' state", "fail", "keys of the register of users are missing", REBUILD)
