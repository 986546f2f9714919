"""Which workers are ready: a hash in Redis, an entry each, said again every few seconds for as long as that is true.

Redis may be emptied, and a worker killed: within seconds the one is mended and the other noticed.
"""

import json
import os
import socket
import time
from contextlib import suppress
from typing import Any, Final, cast

import redis

from infra.ports.redis import Client, Patience

READY_KEY: Final = "foryou:ready"
SAID_EACH_S: Final = 3.0
STALE_MS: Final = 20_000
"""A worker that has not said for so long that it is ready is not: longer than Redis may let a worker wait."""


class WorkerRegistry:
    """One worker's entry.

    Args:
        client: where the hash is.
        patience: waits for it.
        facts: what the worker says of itself, besides `ready_at`, `said_at` and `pid`.

    """

    def __init__(self, client: Client, patience: Patience, **facts: str) -> None:
        self._client, self._patience = client, patience
        self._name = f"{socket.gethostname()}-{os.getpid()}"
        self._facts: dict[str, str | int] = {"pid": os.getpid(), **facts}
        self._said_at = 0.0

    def announce(self) -> None:
        """Say that the worker is ready."""
        self._facts["ready_at"] = _now_ms()
        self._patience.run(self._say)

    def change(self, **facts: str) -> None:
        """Say something else from now on, if the worker is ready."""
        self._facts |= facts
        if self._said_at:
            with suppress(redis.ConnectionError, redis.TimeoutError):  # waited for where it is needed
                self._say()

    def refresh(self) -> None:
        """Say it again, if it was said a while ago; to be called often."""
        if self._said_at and time.monotonic() - self._said_at > SAID_EACH_S:
            with suppress(redis.ConnectionError, redis.TimeoutError):  # waited for where it is needed
                self._say()

    def withdraw(self) -> None:
        """Say no more that the worker is ready."""
        self._said_at = 0.0
        with suppress(redis.RedisError):  # not waited for: the entry becomes stale by itself
            self._client.hdel(READY_KEY, self._name)

    def _say(self) -> None:
        self._said_at = time.monotonic()
        self._client.hset(READY_KEY, self._name, json.dumps(self._facts | {"said_at": _now_ms()}))
        self._client.pexpire(READY_KEY, STALE_MS)


def ready_workers(client: Client) -> list[dict[str, Any]]:
    """What the workers that are ready say of themselves."""
    said = cast(dict[bytes, bytes], client.hgetall(READY_KEY))
    entries: list[dict[str, Any]] = [json.loads(value) for value in said.values()]
    return [entry for entry in entries if entry["said_at"] > _now_ms() - STALE_MS]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
