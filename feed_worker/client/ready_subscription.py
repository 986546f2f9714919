"""The announcements of answers, for any number of coroutines that wait, over one connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import redis.asyncio

T = TypeVar("T")


class Undisturbed:
    """Brings commands to their end, though whoever asked may give up.

    A connection that is left in the middle of a command, or while it connects, is good for nothing any more.
    """

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()

    async def run(self, command: Coroutine[Any, Any, T]) -> T:
        """What the command returns; raises what it raises."""
        task = asyncio.create_task(command)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def end(self) -> None:
        """Wait for all that is under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)


class Listener:
    """One who waits for announcements on a channel."""

    def __init__(self) -> None:
        self._heard = asyncio.Event()
        self._error: Exception | None = None

    async def heard(self, timeout_s: float) -> None:
        """Wait until something is announced, at most so long; raises what ended the subscription, if it has ended."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._heard.wait(), timeout_s)
        self._heard.clear()
        if self._error is not None:
            raise self._error

    def wake(self, error: Exception | None = None) -> None:
        """Tell that something was announced, or that nothing will be any more."""
        self._error = error
        self._heard.set()


class _Channel:
    """Those who listen to one channel; `confirmed` once nothing that is published there is missed."""

    def __init__(self) -> None:
        self.confirmed = asyncio.Event()
        self.listeners: set[Listener] = set()

    def wake(self, error: Exception | None = None) -> None:
        self.confirmed.set()
        for listener in self.listeners:
            listener.wake(error)


class Announcements:
    """One subscription that is shared: to each channel that somebody listens to, and to nothing else."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._pubsub: Any = client.pubsub()  # not typed by redis-py
        self._channels: dict[str, _Channel] = {}
        self._undisturbed = Undisturbed()
        self._sending = asyncio.Lock()  # two commands of one connection must not meet, least of all while it connects
        self._reader: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[Listener]:
        """A listener to a channel, who misses nothing from here on.

        Raises:
            redis.RedisError: where Redis does not answer.

        """
        listener, channel = Listener(), self._channels.get(name)
        is_new = channel is None
        if channel is None:
            channel = self._channels[name] = _Channel()
        channel.listeners.add(listener)
        try:
            if is_new:
                await self._undisturbed.run(self._subscribe(name))
            await channel.confirmed.wait()
            yield listener
        finally:
            channel.listeners.discard(listener)
            await self._leave(name, channel)

    async def close(self) -> None:
        """Listen no more."""
        await self._undisturbed.end()
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
        await self._pubsub.aclose()
        await self._client.aclose()

    async def _subscribe(self, name: str) -> None:
        try:
            await self._send(self._pubsub.subscribe, name)
        except redis.RedisError as error:
            await self._break(error)
            raise
        if self._reader is None:
            self._reader = asyncio.create_task(self._read())

    async def _leave(self, name: str, channel: _Channel) -> None:
        """Unsubscribe from what nobody listens to.

        Not before it is confirmed: the late confirmation would pass for that of whoever subscribes next.
        """
        if not channel.listeners and channel.confirmed.is_set() and self._channels.get(name) is channel:
            del self._channels[name]
            with suppress(redis.RedisError):  # the reader hears of it too, and tells everybody
                await self._undisturbed.run(self._send(self._pubsub.unsubscribe, name))

    async def _send(self, command: Callable[[str], Awaitable[None]], name: str) -> None:
        async with self._sending:
            await command(name)

    async def _read(self) -> None:
        try:
            while True:
                message = await self._pubsub.get_message(timeout=None)
                name = message["channel"].decode()
                if channel := self._channels.get(name):
                    # a confirmation is news as well: after a reconnection, something may have been missed
                    if message["type"] != "unsubscribe":
                        channel.wake()
                    await self._leave(name, channel)
        except Exception as error:  # whatever it is, those who wait must not wait in vain
            self._reader = None
            await self._break(error)

    async def _break(self, error: Exception) -> None:
        """Tell everybody that the connection is lost, and begin anew with whoever comes next."""
        channels, self._channels = self._channels, {}
        lost, self._pubsub = self._pubsub, self._client.pubsub()
        await lost.aclose()
        for channel in channels.values():
            channel.wake(error)
