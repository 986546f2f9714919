"""The app's side for asyncio: the verbs of `feed_worker.client.Client`, and no thread for any of them.

async with AsyncClient() as foryou:
    await foryou.publish({"type": "follow", "user_id": 1, "target_id": 2, "at": 1700000000000})
    feed = await foryou.wait(1, await foryou.request_feed(1))

Any number of coroutines may wait at once; they share one subscription.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self, cast

import redis

from feed_worker.client.answer_lookup import (
    LOOK_AGAIN_S,
    FeedTimeout,
    Fresh,
    Held,
    NoFeed,
    Refreshes,
    answer_to,
    decode_explanation,
    decode_feed,
    held,
    reads_of,
    timed_out,
)
from feed_worker.client.outbox import Outbox, Outgoing, Undelivered, checked, feed_request
from feed_worker.client.ready_subscription import Announcements, Undisturbed
from feed_worker.documents.explanation import Explanation
from feed_worker.documents.feed import Feed
from infra.ports.kafka import partitions_of
from infra.ports.redis import connect_async, listening, unreachable
from infra.ports.settings import Settings, load
from infra.ports.topics import INPUTS
from thunder_ingest.events import Event
from thunder_ingest.events.ids import PublishedId, published_form
from thunder_ingest.events.redis_keys import explain_key, feed_key, ready_channel

__all__ = ["AsyncClient", "FeedTimeout", "Fresh", "NoFeed", "Undelivered"]

_SERVES_S: Final = 0.005

_READS: Final = 16
"""Reads at once, each over a connection of its own: a thousand that wait must not open a thousand."""


class AsyncClient:
    """Like `Client`, with which it shares names, arguments and errors; connects on `async with`."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or load()
        self._outbox = Outbox(self._settings)
        self._refreshes = Refreshes()
        self._reading = asyncio.Semaphore(_READS)
        self._undisturbed = Undisturbed()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(partitions_of, self._settings, INPUTS)  # asks the broker, once
        self.redis = await connect_async(self._settings)
        self._announcements = Announcements(listening(self._settings))
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            await self.flush()
        except Undelivered as undelivered:
            if error is None:
                raise
            error.add_note(str(undelivered))  # the block's own error is the one that is raised
        finally:
            await self._announcements.close()
            await self._undisturbed.end()
            await self.redis.aclose()

    async def publish(self, events: Event | dict[str, Any] | Iterable[Event | dict[str, Any]]) -> None:
        """Check events and hand them to Kafka; see `Client.publish`."""
        for message in checked(events):
            await self._send(message)

    async def publish_raw(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Hand one message to Kafka as it is; see `Client.publish_raw`."""
        await self._send(Outgoing(topic, key, value))

    async def _send(self, message: Outgoing) -> None:
        while not self._outbox.offer(message):
            self._outbox.serve()
            await asyncio.sleep(_SERVES_S)

    async def flush(self, timeout_s: float = 30.0) -> dict[tuple[str, int], int]:
        """Wait until Kafka has everything; see `Client.flush`."""
        deadline = time.monotonic() + timeout_s
        while self._outbox.waiting and time.monotonic() < deadline:
            await asyncio.sleep(_SERVES_S)
        return self._outbox.delivered(timeout_s)

    async def request_feed(self, user: PublishedId, *, at: int | None = None, **options: Any) -> str:
        """Ask for a feed; see `Client.request_feed`."""
        request = feed_request(user, at, options)
        await self.publish(request)
        return request.request_id

    async def wait(self, user: PublishedId, request_id: str, timeout_s: float = 10.0) -> Feed:
        """Wait for the answer to a request; see `Client.wait`."""
        form = published_form(user)
        try:
            async with asyncio.timeout(timeout_s), self._announcements.of(ready_channel(form)) as listener:
                while True:
                    if feed := answer_to(form, request_id, *await self._read(*reads_of(form, request_id))):
                        return feed
                    await listener.heard(LOOK_AGAIN_S)
        except TimeoutError:
            raise timed_out(form, request_id, timeout_s, self._outbox.waiting, self._settings.kafka) from None
        except redis.ConnectionError as error:
            raise unreachable(self._settings, error) from None

    async def next_page(self, feed: Feed, *, timeout_s: float = 10.0, at: int | None = None, **options: Any) -> Feed:
        """Ask for the page after a feed and wait for it; see `Client.next_page`."""
        at = at or max(time.time_ns() // 1_000_000, feed.at + 1)
        request_id = await self.request_feed(feed.user_id, at=at, after=feed.request_id, **options)
        return await self.wait(feed.user_id, request_id, timeout_s)

    async def fresh(
        self, user: PublishedId, *, max_age_ms: int = 60_000, timeout_s: float = 1.0, **options: Any
    ) -> Fresh:
        """A feed that is young enough, or a new one, or the old one marked as stale; see `Client.fresh`."""
        form = published_form(user)
        old = await self._held(form)
        if old and old.age_ms <= max_age_ms:
            return Fresh(old.feed, is_stale=False)
        request_id = self._refreshes.under_way(form)
        if request_id is None:
            request_id = await self.request_feed(user, **options)
            self._refreshes.begins(form, request_id)
        if old and timeout_s <= 0:
            return Fresh(old.feed, is_stale=True)
        try:
            new = await self.wait(user, request_id, timeout_s)
        except FeedTimeout:
            if old is None:
                raise
        except NoFeed:
            self._refreshes.ends(form)
            if old is None:
                raise
        else:
            self._refreshes.ends(form)
            return Fresh(new, is_stale=False)
        return Fresh(old.feed, is_stale=True)

    async def feed(self, user: PublishedId) -> Feed | None:
        """The newest feed of a user, if there is one."""
        (document,) = await self._read(("GET", feed_key(published_form(user))))
        return decode_feed(document)

    async def explain(self, user: PublishedId) -> Explanation | None:
        """The explanation of the last feed that was requested with `explain=True`, if there is one."""
        (document,) = await self._read(("GET", explain_key(published_form(user))))
        return None if document is None else decode_explanation(document)

    async def _held(self, form: str) -> Held | None:
        document, left_ms = await self._read(("GET", feed_key(form)), ("PTTL", feed_key(form)))
        return held(document, cast(int, left_ms), self._settings.feed_ttl_s)

    async def _read(self, *commands: tuple[str, ...]) -> list[bytes | None]:
        return await self._undisturbed.run(self._executed(commands))

    async def _executed(self, commands: Sequence[tuple[str, ...]]) -> list[bytes | None]:
        async with self._reading, self.redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            replies: list[bytes | None] = await pipe.execute()
        return replies
