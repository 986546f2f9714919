"""Connections to Redis or Redis Cluster, and the retry of commands during an outage."""

import threading
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar, cast

import redis
import redis.asyncio
import redis.asyncio.cluster
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.client import PubSub
from redis.cluster import RedisCluster

from infra.ports.errors import RedisUnreachable, StopRequested
from infra.ports.outage import outage
from infra.ports.settings import Settings, redacted

Client: TypeAlias = redis.Redis | RedisCluster
AsyncClient: TypeAlias = redis.asyncio.Redis | redis.asyncio.cluster.RedisCluster
T = TypeVar("T")

_TIMEOUTS: Final[dict[str, Any]] = {"socket_timeout": 10.0, "socket_connect_timeout": 5.0}


def redis_unreachable(settings: Settings, error: redis.RedisError) -> RedisUnreachable:
    """RedisUnreachable for an error of the client, with the address, the reason and the remedy."""
    return RedisUnreachable(
        f"no Redis answers at {redacted(settings.redis)} ({error}): start one with `foryou up`, or name "
        "yours in FORYOU_REDIS"
    )


def connect(settings: Settings) -> Client:
    """Return a client of the Redis, or Redis Cluster, of the settings.

    Raises:
        RedisUnreachable: with the address and the remedy.

    """
    try:
        client = _client(settings)
        client.ping()
    except redis.RedisError as error:
        raise redis_unreachable(settings, error) from None
    return client


async def connect_async(settings: Settings) -> AsyncClient:
    """Return a client for asyncio; like `connect`."""
    kind = redis.asyncio.cluster.RedisCluster if settings.redis_cluster else redis.asyncio.Redis
    client: AsyncClient = kind.from_url(settings.redis, **_TIMEOUTS)
    try:
        await client.ping()
    except redis.RedisError as error:
        await client.aclose()
        raise redis_unreachable(settings, error) from None
    return client


def subscriber_client(settings: Settings) -> redis.asyncio.Redis:
    """Return a client for subscriptions: its reads have no timeout.

    One node of a cluster is enough: it receives the messages that are published on all others.
    """
    return redis.asyncio.Redis.from_url(
        settings.redis,
        socket_connect_timeout=_TIMEOUTS["socket_connect_timeout"],
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), retries=5),
        retry_on_error=[redis.ConnectionError],
    )


def _client(settings: Settings) -> Client:
    if settings.redis_cluster:
        return RedisCluster.from_url(settings.redis, **_TIMEOUTS)
    return redis.Redis.from_url(settings.redis, **_TIMEOUTS)


def subscription(client: Client) -> PubSub:
    """Return a subscription, which the caller closes; its first message is the confirmation."""
    pubsub: PubSub = cast(Any, client).pubsub()  # not typed by redis-py
    return pubsub


class RedisRetry:
    """Repeats a command until Redis is available; logs the start and the end of the outage once. Any thread may call.

    Args:
        settings: address of Redis.
        stopping: ends the wait.

    """

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        self._outage = outage("Redis", redacted(settings.redis))
        self._stopping = stopping

    def run(self, command: Callable[[], T]) -> T:
        """Run an idempotent command until it succeeds; return its result.

        Raises:
            StopRequested: `stopping` was set while Redis was unreachable.
            redis.AuthenticationError: Redis refuses the password; a retry would not help.

        """
        while True:
            try:
                result = command()
            except redis.AuthenticationError:
                raise
            except (redis.ConnectionError, redis.TimeoutError, RedisUnreachable) as error:
                self._outage.begins(error)
                if self._stopping.wait(0.5):
                    raise StopRequested("stopped while Redis was unreachable") from error
            else:
                self._outage.ends()
                return result
