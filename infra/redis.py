"""The port to Redis: one way to connect, alone or as a cluster; needs nothing of the house but its settings."""

import threading
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import redis
from redis.client import PubSub
from redis.cluster import RedisCluster

from infra.outage import outage
from infra.settings import Settings

Client: TypeAlias = redis.Redis | RedisCluster
T = TypeVar("T")


class RedisUnreachable(ConnectionError):
    """No Redis answers at the address of the settings, or it refuses us."""


class Stopped(RuntimeError):
    """The process was asked to end while it waited for Redis."""


def connect(settings: Settings) -> Client:
    """A client of the Redis, or Redis Cluster, of the settings.

    Raises:
        RedisUnreachable: naming the address and what to do.

    """
    try:
        client = _client(settings)
        client.ping()
    except redis.RedisError as error:
        raise RedisUnreachable(
            f"no Redis answers at {_without_password(settings.redis)} ({error}): start one with `foryou up`, or name "
            "yours in FORYOU_REDIS"
        ) from None
    return client


def _client(settings: Settings) -> Client:
    common: dict[str, Any] = {"socket_timeout": 10.0, "socket_connect_timeout": 5.0}
    if settings.redis_cluster:
        return RedisCluster.from_url(settings.redis, **common)
    return redis.Redis.from_url(settings.redis, **common)


def subscription(client: Client) -> PubSub:
    """A subscription, to be closed; its first message is the confirmation."""
    announced: PubSub = cast(Any, client).pubsub()  # not typed by redis-py
    return announced


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


class Patience:
    """Runs commands against a Redis that may go away for a while: waits, says so once, and runs them again.

    Whatever is run must be safe to run twice.
    """

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        self._outage = outage("Redis", _without_password(settings.redis))
        self._stopping = stopping

    def run(self, command: Callable[[], T]) -> T:
        """The command's result, once it succeeds.

        Raises:
            Stopped: the process is to end while Redis is away.
            redis.AuthenticationError: waiting would not help.

        """
        while True:
            try:
                result = command()
            except redis.AuthenticationError:
                raise
            except (redis.ConnectionError, redis.TimeoutError, RedisUnreachable) as error:
                self._outage.begins(error)
                if self._stopping.wait(0.5):
                    raise Stopped("asked to stop while Redis was away") from error
            else:
                self._outage.ends()
                return result
