"""The port to Redis: one way to connect, alone or as a cluster; needs nothing of the house but its settings."""

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


def unreachable(settings: Settings, error: redis.RedisError) -> RedisUnreachable:
    """What to tell of an error that means that nobody answers, or does so no longer."""
    return RedisUnreachable(
        f"no Redis answers at {redacted(settings.redis)} ({error}): start one with `foryou up`, or name "
        "yours in FORYOU_REDIS"
    )


def connect(settings: Settings) -> Client:
    """A client of the Redis, or Redis Cluster, of the settings.

    Raises:
        RedisUnreachable: naming the address and what to do.

    """
    try:
        client = _client(settings)
        client.ping()
    except redis.RedisError as error:
        raise unreachable(settings, error) from None
    return client


async def connect_async(settings: Settings) -> AsyncClient:
    """Like `connect`, for asyncio."""
    kind = redis.asyncio.cluster.RedisCluster if settings.redis_cluster else redis.asyncio.Redis
    client: AsyncClient = kind.from_url(settings.redis, **_TIMEOUTS)
    try:
        await client.ping()
    except redis.RedisError as error:
        await client.aclose()
        raise unreachable(settings, error) from None
    return client


def listening(settings: Settings) -> redis.asyncio.Redis:
    """A client to subscribe with, for as long as it takes; any node of a cluster hears what is published on another."""
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
    """A subscription, to be closed; its first message is the confirmation."""
    announced: PubSub = cast(Any, client).pubsub()  # not typed by redis-py
    return announced


class Patience:
    """Runs commands against a Redis that may go away for a while: waits, says so once, and runs them again.

    Whatever is run must be safe to run twice.
    """

    def __init__(self, settings: Settings, stopping: threading.Event) -> None:
        self._outage = outage("Redis", redacted(settings.redis))
        self._stopping = stopping

    def run(self, command: Callable[[], T]) -> T:
        """The command's result, once it succeeds.

        Raises:
            StopRequested: the process is to end while Redis is away.
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
                    raise StopRequested("asked to stop while Redis was away") from error
            else:
                self._outage.ends()
                return result
