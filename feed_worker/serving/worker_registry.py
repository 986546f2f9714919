"""The registry of ready workers: a hash in Redis with one entry a worker, renewed every few seconds (heartbeat).

A lost entry is back after one heartbeat; the entry of a killed worker counts as stale after `STALE_MS`,
and another worker deletes it after `FORGET_MS`.
"""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import redis

from infra.ports.broken_keys import broken_keys
from infra.ports.clock import now_ms
from infra.ports.error_table import Reaction, redis_reaction
from infra.ports.redis import REDIS_ERRORS, Client, RedisRetry, pipelined

READY_KEY: Final = "foryou:ready"
HEARTBEAT_S: Final = 3.0
POSITIONS_S: Final = 0.2
"""The minimum time between two writes of new positions."""
STALE_MS: Final = 20_000
"""The maximum age of a heartbeat; longer than a worker waits for one reply of Redis."""
FORGET_MS: Final = 600_000
"""The age at which other workers delete an entry; well above STALE_MS, since the clocks of machines differ."""
SWEEP_S: Final = 60.0
"""The minimum time between two searches of a worker for such entries."""


class WorkerRegistry:
    """One worker's entry in the registry. For the intake thread alone.

    Args:
        client: of Redis.
        redis_retry: repeats commands during an outage of Redis.
        facts: the entry's fields besides `ready_at`, `said_at` (the last heartbeat, ms) and `pid`.

    """

    def __init__(self, client: Client, redis_retry: RedisRetry, **facts: str) -> None:
        self._client, self._redis_retry = client, redis_retry
        self._name = f"{socket.gethostname()}-{os.getpid()}"
        self._facts: dict[str, Any] = {"pid": os.getpid(), "positions": {}, **facts}
        self._written_at_s, self._swept_at_s = 0.0, -SWEEP_S

    def register(self) -> None:
        """Add the entry, or renew it; waits while Redis is away."""
        self._facts["ready_at"] = now_ms()
        self._redis_retry.run(self._write)

    def update(self, **facts: str) -> None:
        """Change fields; writes the entry if it is registered."""
        self._facts |= facts
        if self._written_at_s:
            self._redis_retry.attempt(self._write)  # else the next heartbeat writes it

    def heartbeat(self, positions: Mapping[str, int], unknown_labels: Sequence[str] = ()) -> None:
        """Renew a registered entry that is older than HEARTBEAT_S, or POSITIONS_S with new positions; call it often."""
        age_s = time.monotonic() - self._written_at_s
        is_due = age_s > HEARTBEAT_S or (age_s > POSITIONS_S and self._facts["positions"] != positions)
        if is_due:
            self._facts |= {"positions": dict(positions), "unknown_labels": list(unknown_labels)}
        if self._written_at_s and is_due:
            self._redis_retry.attempt(self._write)  # else the next heartbeat writes it

    def unregister(self) -> None:
        """Delete the entry; it becomes stale if Redis is away."""
        self._written_at_s = 0.0
        with suppress(*REDIS_ERRORS):  # the worker ends and cannot wait
            self._client.hdel(READY_KEY, self._name)

    def _write(self) -> None:
        self._written_at_s = time.monotonic()
        entry = json.dumps(self._facts | {"said_at": now_ms()})
        written, _ = pipelined(self._client, [("HSET", READY_KEY, self._name, entry), ("PEXPIRE", READY_KEY, STALE_MS)])
        if isinstance(written, Exception):
            broken_keys.skip(READY_KEY, written)
        elif self._written_at_s - self._swept_at_s >= SWEEP_S:
            self._swept_at_s = self._written_at_s
            self._sweep()

    def _sweep(self) -> None:
        """Delete the entries of killed workers and unreadable ones: the hash expires only without any live worker."""
        oldest_ms, entries = now_ms() - FORGET_MS, _entries(self._client)
        if gone := [name for name, entry in entries.items() if entry is None or entry["said_at"] < oldest_ms]:
            self._client.hdel(READY_KEY, *gone)


def ready_workers(client: Client) -> list[dict[str, Any]]:
    """The entries of ready workers, without stale ones.

    An entry has `pid`, `model_version`, `clock`, `ready_at`, `said_at`, and `positions`: for each partition of
    `thunder-posts` and `accounts` the offset after the last record that the worker has applied.
    """
    entries = [entry for entry in _entries(client).values() if entry is not None]
    return [entry for entry in entries if entry["said_at"] > now_ms() - STALE_MS]


def _entries(client: Client) -> dict[bytes, dict[str, Any] | None]:
    """All entries by name; None for one that cannot be read."""
    try:
        values = cast(dict[bytes, bytes], client.hgetall(READY_KEY))
    except redis.ResponseError as error:
        if redis_reaction(error) is not Reaction.SKIP:
            raise
        broken_keys.skip(READY_KEY, error)
        return {}
    return {name: _entry(value) for name, value in values.items()}


def _entry(value: bytes) -> dict[str, Any] | None:
    """The entry that is stored; None if it cannot be read."""
    try:
        entry: dict[str, Any] = json.loads(value)
        _ = (entry["said_at"] > 0, entry["pid"])
    except (ValueError, LookupError, TypeError) as error:
        broken_keys.skip(READY_KEY, error)
        return None
    return entry
