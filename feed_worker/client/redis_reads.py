"""Reads from Redis, for a client: with threads, each read bounded by a deadline, or with asyncio."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Self

import redis
from redis.backoff import ExponentialBackoff
from redis.client import PubSub
from redis.cluster import RedisCluster
from redis.retry import Retry

from feed_worker.client.answer_lookup import Command
from feed_worker.client.ready_subscription import Listener, ReadySubscription, ShieldedTasks
from infra.ports.redis import AsyncClient, connect, connect_async, redis_unreachable, subscriber_client
from infra.ports.settings import Settings

LEAST_S: Final = 0.2
"""A read is given at least this time, so that a client with no time left still finds an answer that is there."""

READ_TIMEOUT_S: Final = 10.0
"""Time for a read that has no deadline of its own."""

_HANDSHAKE_S: Final = 1.0
_CONNECTIONS: Final = 16
"""Connections of an asyncio client: a thousand waiting coroutines must not open a thousand."""


class RedisReads:
    """Reads of a client with threads; any thread may call.

    A read waits for its replies until its deadline, however Redis hangs. Only a connection that is opened meanwhile
    may take `_HANDSHAKE_S` longer, and on a Redis Cluster the socket timeout of its client counts.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.redis = connect(settings)
        self._pool = self._client(_HANDSHAKE_S).connection_pool

    def execute(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        """The replies to commands on the keys of one user, in one round trip.

        Args:
            commands: sent together.
            deadline: the end of the wait, by the monotonic clock.

        Raises:
            RedisUnreachable: Redis does not answer, or it refuses.
            TimeoutError: the deadline has passed.

        """
        with self._errors(deadline):
            if isinstance(self.redis, RedisCluster):
                with self.redis.pipeline(transaction=False) as pipe:
                    for command in commands:
                        pipe.execute_command(*command)
                    replies: list[Any] = pipe.execute()
                return replies
            return self._execute(commands, deadline)

    def read(self, commands: Sequence[Command], timeout_s: float = READ_TIMEOUT_S) -> list[Any]:
        """Like `execute`; raises RedisUnreachable also if there is no reply within `timeout_s`."""
        try:
            return self.execute(commands, time.monotonic() + timeout_s)
        except TimeoutError as error:
            raise redis_unreachable(self._settings, redis.TimeoutError(str(error))) from None

    @contextmanager
    def subscription(self, channel: str, deadline: float) -> Iterator[PubSub]:
        """A confirmed subscription to a channel; raises like `execute`, also in its block."""
        left_s = _left_s(deadline)
        # each node of a cluster forwards the messages of the other nodes
        with self._errors(deadline), self._client(left_s) as client, client.pubsub() as messages:
            messages.subscribe(channel)
            messages.get_message(timeout=left_s)  # the confirmation: from now on no announcement is missed
            yield messages

    def close(self) -> None:
        """Close the connections."""
        self._pool.disconnect()
        self.redis.close()

    def _execute(self, commands: Sequence[Command], deadline: float) -> list[Any]:
        connection = self._pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            return [_reply(connection, deadline) for _ in commands]
        except BaseException:
            connection.disconnect()  # replies may still come
            raise
        finally:
            self._pool.release(connection)

    def _client(self, timeout_s: float) -> redis.Redis:
        return redis.Redis.from_url(
            self._settings.redis,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(ExponentialBackoff(cap=0.2, base=0.05), retries=2, supported_errors=(redis.ConnectionError,)),
        )

    @contextmanager
    def _errors(self, deadline: float) -> Iterator[None]:
        try:
            yield
        except redis.TimeoutError as error:
            if time.monotonic() >= deadline:
                raise TimeoutError(str(error)) from None
            raise redis_unreachable(self._settings, error) from None
        except redis.RedisError as error:
            raise redis_unreachable(self._settings, error) from None


def _left_s(deadline: float) -> float:
    return max(LEAST_S, deadline - time.monotonic())


def _reply(connection: Any, deadline: float) -> Any:  # a connection's reads are not typed by redis-py
    if not connection.can_read(timeout=_left_s(deadline)):
        raise TimeoutError("Redis did not reply in time")
    return connection.read_response()


class AsyncRedisReads:
    """Reads of an asyncio client; the caller bounds their time."""

    def __init__(self, settings: Settings, client: AsyncClient) -> None:
        self._settings, self.redis = settings, client
        self._free = asyncio.Semaphore(_CONNECTIONS)
        self._tasks = ShieldedTasks()
        self.ready = ReadySubscription(subscriber_client(settings))

    @classmethod
    async def connect(cls, settings: Settings) -> Self:
        """Connect; raises RedisUnreachable, with the address and the remedy."""
        return cls(settings, await connect_async(settings))

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands on the keys of one user, in one round trip; raises RedisUnreachable."""
        try:
            return await self._tasks.run(self._execute(commands))
        except redis.RedisError as error:
            raise redis_unreachable(self._settings, error) from None

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
        except redis.RedisError as error:
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
            replies: list[Any] = await pipe.execute()
        return replies
