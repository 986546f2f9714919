"""The announcements of answers, for any number of coroutines, over one connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

import redis.asyncio

T = TypeVar("T")

RECOVER_S: Final = 0.2
"""The wait between two attempts to subscribe."""

CLOSE_S: Final = 1.0
"""Time for running commands to end when a client closes."""


class ClientClosed(redis.ConnectionError):
    """The client was closed during a command."""


class ShieldedTasks:
    """Runs commands to their end even if the caller is cancelled.

    A connection whose command, or whose handshake, is cut off is unusable.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def run(self, command: Coroutine[Any, Any, T]) -> T:
        """The command's result; raises the command's error, and ClientClosed after `close`."""
        if self._closed:
            command.close()
            raise ClientClosed("the client is closed")
        task = asyncio.create_task(command)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Start no more commands; wait for those that are running, and cancel them after CLOSE_S."""
        self._closed = True
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


class Listener:
    """One coroutine that waits for the announcements of a channel."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self._error: Exception | None = None

    async def wait(self, timeout_s: float) -> None:
        """Wait for an announcement, at most `timeout_s`; raises the error that ended the subscription."""
        # not asyncio.wait_for: in Python 3.11 it may swallow the cancellation by a timeout around this one
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        self._woken.clear()
        if self._error is not None:
            raise self._error

    def wake(self, error: Exception | None = None) -> None:
        """End the wait: for an announcement, or for an error after which none will come."""
        self._error = error
        self._woken.set()


class _Channel:
    """The listeners of one channel; `confirmed` is set once no announcement can be missed."""

    def __init__(self) -> None:
        self.confirmed = asyncio.Event()
        self.listeners: set[Listener] = set()

    def wake(self, error: Exception | None = None) -> None:
        self.confirmed.set()
        for listener in self.listeners:
            listener.wake(error)


class ReadySubscription:
    """One shared subscription, to the channels that have listeners.

    Args:
        connect: makes the client of the subscription, and of the next one after a loss: of another node of a cluster.
        attempts: to subscribe, before the error is raised.

    """

    def __init__(self, connect: Callable[[], redis.asyncio.Redis], attempts: int = 1) -> None:
        self._connect, self._attempts = connect, attempts
        self._client = connect()
        self._pubsub: Any = self._client.pubsub()  # not typed by redis-py
        self._channels: dict[str, _Channel] = {}
        self._tasks = ShieldedTasks()
        self._recovering = asyncio.Lock()
        self._sending = asyncio.Lock()  # two commands must not overlap on one connection, nor while it connects
        self._reader: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def listener(self, name: str) -> AsyncIterator[Listener]:
        """A listener to a channel, which misses no announcement from now on.

        Raises:
            redis.RedisError: Redis does not answer.

        """
        listener, channel = Listener(), self._channels.get(name)
        is_new = channel is None
        if channel is None:
            channel = self._channels[name] = _Channel()
        channel.listeners.add(listener)
        try:
            if is_new:
                await self._tasks.run(self._subscribe(name))
            await channel.confirmed.wait()
            yield listener
        finally:
            channel.listeners.discard(listener)
            await self._leave(name, channel)

    async def close(self) -> None:
        """Wait for the commands that are running, stop the reader and close the connection.

        In this order, and with no command afterwards: a command on a closed subscription would open a connection that
        no code closes.
        """
        await self._tasks.close()
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
        await self._pubsub.aclose()
        await self._client.aclose()
        for channel in self._channels.values():
            channel.wake(ClientClosed("the client is closed"))

    async def _subscribe(self, name: str) -> None:
        pubsub = self._pubsub
        try:
            await self._send(pubsub.subscribe, name)
        except redis.RedisError as error:
            await self._recover(pubsub, error)
            if name not in self._channels:
                raise
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(self._pubsub))

    async def _leave(self, name: str, channel: _Channel) -> None:
        """Unsubscribe from a channel without listeners.

        Only after its confirmation: a late one would pass for that of the next subscription to the channel.
        """
        if not channel.listeners and channel.confirmed.is_set() and self._channels.get(name) is channel:
            del self._channels[name]
            with suppress(redis.RedisError):  # the reader meets the same error
                await self._tasks.run(self._send(self._pubsub.unsubscribe, name))

    async def _send(self, command: Callable[..., Awaitable[None]], *names: str) -> None:
        async with self._sending:
            await command(*names)

    async def _read(self, pubsub: Any) -> None:
        try:
            while True:
                if (message := await pubsub.get_message(timeout=None)) is None:
                    continue  # the reply to a health check
                name = message["channel"].decode()
                if channel := self._channels.get(name):
                    # a confirmation wakes as well: a reconnection may have missed an announcement
                    if message["type"] != "unsubscribe":
                        channel.wake()
                    await self._leave(name, channel)
        except Exception as error:  # of any kind: the listeners must not wait without a reader
            # shielded: a close that cancels the reader must not leave the lost connection open
            with suppress(redis.ConnectionError):
                await self._tasks.run(self._recover(pubsub, error))

    async def _recover(self, lost: Any, error: Exception) -> None:
        """Subscribe again, at another node of a cluster; after the last attempt wake all listeners with the error."""
        async with self._recovering:
            if self._pubsub is not lost:  # the subscription has been replaced meanwhile
                return
            for _ in range(self._attempts - 1):
                await self._replace()
                try:
                    if self._channels:
                        await self._send(self._pubsub.subscribe, *self._channels)
                        self._reader = asyncio.create_task(self._read(self._pubsub))
                    return
                except redis.RedisError as again:
                    error = again
                    await asyncio.sleep(RECOVER_S)
            channels, self._channels = self._channels, {}
            try:
                await self._replace()
            finally:
                for channel in channels.values():
                    channel.wake(error)

    async def _replace(self) -> None:
        """Close the lost connection; the next command opens another."""
        lost, client = self._pubsub, self._client
        self._client, self._reader = self._connect(), None
        self._pubsub = self._client.pubsub()
        try:
            await lost.aclose()
        finally:
            await client.aclose()
