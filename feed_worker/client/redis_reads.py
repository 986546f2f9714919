"""Reads from Redis, for a client: with threads, each read bounded by a deadline, or with asyncio."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any, Final, Self

import redis
from redis.backoff import ExponentialBackoff
from redis.client import PubSub
from redis.connection import ConnectionPool
from redis.retry import Retry

from feed_worker.client.answer_lookup import Command
from feed_worker.client.ready_subscription import ClientClosed, Listener, ReadySubscription, ShieldedTasks
from infra.ports.broken_keys import broken_keys
from infra.ports.error_table import Reaction, redis_reaction
from infra.ports.redis import (
    REDIS_ERRORS,
    AsyncClient,
    checked,
    connect,
    connect_async,
    node_url,
    redis_unreachable,
    renew,
    subscriber_client,
)
from infra.ports.settings import Settings

LEAST_S: Final = 0.2
"""A read is given at least this time, so that a client with no time left still finds an answer that is there."""

READ_TIMEOUT_S: Final = 10.0
"""Time for a read that has no deadline of its own."""

_HANDSHAKE_S: Final = 1.0
_FAILOVER_S: Final = 0.2
"""The wait before a read of a cluster is repeated."""
_SUBSCRIPTIONS: Final = 5
"""Attempts to subscribe, each at a random primary of a cluster."""
_CONNECTIONS: Final = 16
"""Connections of an asyncio client: a thousand waiting coroutines must not open a thousand."""


class RedisReads:
    """Reads of a client with threads; any thread may call.

    A read waits for its replies until its deadline, however Redis hangs. Only a connection that is opened meanwhile
    may take `_HANDSHAKE_S` longer. On a cluster a read is repeated until its deadline while a node fails over.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.redis = connect(settings)
        self._nodes = connect(settings, _HANDSHAKE_S, is_strict=True)

    def execute(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """The replies to commands on the keys of one user, in one round trip; None for a key of another type.

        Args:
            commands: sent together.
            deadline: the end of the wait, by the monotonic clock.

        Raises:
            RedisUnreachable: Redis does not answer, or it refuses.
            TimeoutError: the deadline has passed.

        """
        with self._errors(deadline):
            while True:
                try:
                    return _values(commands, self._execute(commands, deadline))
                except REDIS_ERRORS as error:
                    if not self._fails_over(error) or time.monotonic() >= deadline:
                        raise
                renew(self._nodes)
                time.sleep(_FAILOVER_S)

    def read(self, commands: Sequence[Command], timeout_s: float = READ_TIMEOUT_S) -> list[Any]:
        """Like `execute`; raises RedisUnreachable also if there is no reply within `timeout_s`."""
        try:
            return self.execute(commands, time.monotonic() + timeout_s)
        except TimeoutError as error:
            raise redis_unreachable(self._settings, redis.TimeoutError(str(error))) from None

    @contextmanager
    def subscription(self, channel: str, deadline: float) -> Iterator[PubSub]:
        """A confirmed subscription to a channel; raises like `execute`, also in its block."""
        with self._errors(deadline), closing(self._subscribed(channel, deadline)) as messages:
            yield messages

    def close(self) -> None:
        """Close the connections."""
        self._nodes.close()
        self.redis.close()

    def _subscribed(self, channel: str, deadline: float) -> PubSub:
        while True:
            messages: PubSub = self._subscriber(_left_s(deadline)).pubsub()
            try:
                messages.subscribe(channel)
                messages.get_message(timeout=_left_s(deadline))  # the confirmation: no announcement is missed from now
            except REDIS_ERRORS as error:
                messages.close()
                if not self._fails_over(error) or time.monotonic() >= deadline:
                    raise
            else:
                return messages
            renew(self._nodes)
            time.sleep(_FAILOVER_S)

    def _execute(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        pool = self._pool(commands[0][1])
        connection = pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            return checked([_reply(connection, deadline) for _ in commands])
        except BaseException:
            connection.disconnect()  # replies may still come
            raise
        finally:
            pool.release(connection)

    def _pool(self, key: str) -> ConnectionPool:
        if isinstance(self._nodes, redis.Redis):
            return self._nodes.connection_pool
        node = self._nodes.get_node_from_key(key)
        if node is None or node.redis_connection is None:
            raise redis.ConnectionError("no node of the cluster has the key")
        pool: ConnectionPool = node.redis_connection.connection_pool
        return pool

    def _subscriber(self, timeout_s: float) -> redis.Redis:
        return redis.Redis.from_url(
            node_url(self._settings, self._nodes),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.05), retries=2, supported_errors=(redis.ConnectionError,)),
        )

    def _fails_over(self, error: Exception) -> bool:
        """True if another node of a cluster may soon answer."""
        is_timeout = isinstance(error, redis.TimeoutError)
        return self._settings.redis_cluster and not is_timeout and redis_reaction(error) is Reaction.WAIT

    @contextmanager
    def _errors(self, deadline: float) -> Iterator[None]:
        try:
            yield
        except redis.TimeoutError as error:
            if time.monotonic() >= deadline:
                raise TimeoutError(str(error)) from None
            raise redis_unreachable(self._settings, error) from None
        except REDIS_ERRORS as error:
            raise redis_unreachable(self._settings, error) from None


def _left_s(deadline: float) -> float:
    return max(LEAST_S, deadline - time.monotonic())


def _reply(connection: Any, deadline: float) -> Any:  # a connection's reads are not typed by redis-py
    if not connection.can_read(timeout=_left_s(deadline)):
        raise TimeoutError("Redis did not reply in time")
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _values(commands: Sequence[Command], replies: list[Any]) -> list[Any]:
    """The replies; None, as for a missing key, for a key that holds a value of another type."""
    for (_, key, *_), reply in zip(commands, replies, strict=True):
        if isinstance(reply, Exception):
            broken_keys.skip(key, reply)
    return [None if isinstance(reply, Exception) else reply for reply in replies]


class AsyncRedisReads:
    """Reads of an asyncio client; the caller bounds their time."""

    def __init__(self, settings: Settings, client: AsyncClient) -> None:
        self._settings, self.redis = settings, client
        self._free = asyncio.Semaphore(_CONNECTIONS)
        self._tasks = ShieldedTasks()
        self.ready = ReadySubscription(
            lambda: subscriber_client(node_url(settings, client)), _SUBSCRIPTIONS if settings.redis_cluster else 1
        )

    @classmethod
    async def connect(cls, settings: Settings) -> Self:
        """Connect; raises RedisUnreachable, with the address and the remedy."""
        return cls(settings, await connect_async(settings))

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands on the keys of one user, in one round trip; None for a key of another type.

        Raises:
            RedisUnreachable: Redis does not answer, or it refuses. While a node of a cluster fails over, the read is
                repeated until the caller gives up.

        """
        while True:
            try:
                return _values(commands, await self._tasks.run(self._execute(commands)))
            except REDIS_ERRORS as error:
                is_closed = isinstance(error, ClientClosed)
                if is_closed or not self._settings.redis_cluster or redis_reaction(error) is not Reaction.WAIT:
                    raise redis_unreachable(self._settings, error) from None
            await asyncio.sleep(_FAILOVER_S)

    async def read(self, commands: Sequence[Command], timeout_s: float = READ_TIMEOUT_S) -> list[Any]:
        """Like `execute`; raises RedisUnreachable also if there is no reply within `timeout_s`."""
        try:
            async with asyncio.timeout(max(LEAST_S, timeout_s)):
                return await self.execute(commands)
        except TimeoutError:
            raise redis_unreachable(self._settings, redis.TimeoutError("Redis did not reply in time")) from None

    @asynccontextmanager
    async def listener(self, channel: str) -> AsyncIterator[Listener]:
        """A listener to a channel, which misses no announcement from now on; raises RedisUnreachable."""
        try:
            async with self.ready.listener(channel) as listener:
                yield listener
        except REDIS_ERRORS as error:
            raise redis_unreachable(self._settings, error) from None

    async def close(self) -> None:
        """Close the subscription, wait for the reads that are running, then close the connections."""
        await self.ready.close()
        await self._tasks.close()
        await self.redis.aclose()

    async def _execute(self, commands: Sequence[Command]) -> list[Any]:
        async with self._free, self.redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return checked(await pipe.execute(raise_on_error=False))
