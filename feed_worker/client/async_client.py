"""The client for apps with asyncio: the methods of `feed_worker.client.Client`.

async with AsyncClient() as foryou:
    await foryou.publish({"type": "follow", "user_id": 1, "target_id": 2, "at": 1700000000000})
    feed = await foryou.wait(1, await foryou.request_feed(1))

Any number of coroutines may wait at the same time; they share one subscription and use no thread.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from feed_worker.client.answer_lookup import (
    LOOK_AGAIN_S,
    REDIS_HANGS,
    answer_commands,
    answer_to,
    decode_explanation,
    decode_feed,
    not_sent,
    timed_out,
)
from feed_worker.client.errors import Undelivered
from feed_worker.client.messages import OutgoingMessage, check_request_id, feed_request, messages_of, user_form
from feed_worker.client.refresh import (
    CHECK_S,
    STORED_FEED_S,
    Fresh,
    PendingRequests,
    Refresh,
    Wanted,
    still_standing,
    stored_feed,
    stored_feed_commands,
)
from feed_worker.documents.explanation import Explanation
from feed_worker.documents.feed import Feed
from infra.ports.clock import now_ms
from infra.ports.topics import INPUTS
from thunder_ingest.events import Event, FeedRequest
from thunder_ingest.events.ids import PublishedId, published_form
from thunder_ingest.events.redis_keys import explain_key, feed_key, ready_channel

if TYPE_CHECKING:
    from infra.ports.settings import Settings

_POLL_S: Final = 0.005


class AsyncClient:
    """Like `Client`, with the same methods, arguments and errors; connects on `async with`. For one event loop."""

    def __init__(self, settings: "Settings | None" = None) -> None:
        # redis-py, pydantic and librdkafka take several times as long to import as all else together
        from feed_worker.client.outbox import Outbox
        from infra.ports.settings import load

        self._settings = settings or load()
        self._outbox = Outbox(self._settings)
        self._pending = PendingRequests()

    async def __aenter__(self) -> Self:
        from feed_worker.client.redis_reads import AsyncRedisReads
        from infra.ports.consumer import partitions_of

        await asyncio.to_thread(partitions_of, self._settings, INPUTS)  # asks the broker, once
        self._reads = await AsyncRedisReads.connect(self._settings)
        self.redis = self._reads.redis
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
            await self._reads.close()

    async def publish(self, events: Event | dict[str, Any] | Iterable[Event | dict[str, Any]]) -> None:
        """Check events and hand them to Kafka; see `Client.publish`."""
        for message in messages_of(events):
            await self._send(message)

    async def publish_raw(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Hand one message to Kafka as it is; see `Client.publish_raw`."""
        await self._send(OutgoingMessage(topic, key, value))

    async def flush(self, timeout_s: float = 30.0) -> dict[tuple[str, int], int]:
        """Wait until Kafka has every message; see `Client.flush`."""
        deadline = time.monotonic() + timeout_s
        while self._outbox.waiting and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
        return self._outbox.delivered(timeout_s)

    async def publish_and_wait(
        self, events: Event | dict[str, Any] | Iterable[Event | dict[str, Any]], timeout_s: float = 10.0
    ) -> None:
        """Publish events, and wait until they can be served; see `Client.wait_servable`."""
        await self.publish(events)
        await self.wait_servable(timeout_s)

    async def wait_servable(self, timeout_s: float = 10.0) -> None:
        """Wait, in a thread, until the published events can be served; see `Client.wait_servable`."""
        from feed_worker.client.servable import wait_servable
        from infra.ports.redis import connect

        deadline = time.monotonic() + timeout_s
        delivered = await self.flush(timeout_s)

        def wait() -> None:
            with contextlib.closing(connect(self._settings)) as client:
                wait_servable(self._settings, client, delivered, deadline - time.monotonic())

        await asyncio.to_thread(wait)

    async def request_feed(self, user: PublishedId, *, at: int | None = None, **options: Any) -> str:
        """Request a feed; see `Client.request_feed`."""
        return await self._request(feed_request(user, at, options), None)

    async def wait(self, user: PublishedId, request_id: str, timeout_s: float = 10.0) -> Feed:
        """Wait for the answer to a request; see `Client.wait`."""
        form, reason = user_form(user), REDIS_HANGS
        check_request_id(request_id)
        commands = answer_commands(form, request_id)
        try:
            async with asyncio.timeout(timeout_s), self._reads.listener(ready_channel(form)) as listener:
                while True:
                    reason = REDIS_HANGS
                    if feed := answer_to(form, request_id, *await self._reads.execute(commands)):
                        return feed
                    reason = self._outbox.hint
                    await listener.wait(LOOK_AGAIN_S)
        except TimeoutError:
            raise timed_out(form, request_id, timeout_s, reason) from None

    async def next_page(self, feed: Feed, *, timeout_s: float = 10.0, at: int | None = None, **options: Any) -> Feed:
        """Request the page after a feed and wait for it; see `Client.next_page`."""
        at = at or max(now_ms(), feed.at + 1)
        request_id = await self.request_feed(feed.user_id, at=at, after=feed.request_id, **options)
        return await self.wait(feed.user_id, request_id, timeout_s)

    async def fresh(
        self, user: PublishedId, *, max_age_ms: int = 60_000, timeout_s: float = 1.0, **options: Any
    ) -> Fresh:
        """A feed that is young enough, or a new one, or the old one marked as stale; see `Client.fresh`."""
        form, deadline = user_form(user), time.monotonic() + timeout_s
        replies = await self._reads.read(stored_feed_commands(form), max(STORED_FEED_S, timeout_s))
        old = stored_feed(form, replies, self._settings.feed_ttl_s, options.get("surface") or "")
        refresh = Refresh(self._pending, Wanted.of(form, options), old, max_age_ms, deadline)
        if refresh.is_needed:
            with refresh.attempt():
                request_id = refresh.request_id or refresh.requested(
                    await self._request(feed_request(user, None, options), deadline)
                )
                if refresh.waits:
                    refresh.answered(await self.wait(user, request_id, refresh.left_s))
        fresh = refresh.result()
        if refresh.is_new:
            return fresh
        shown = [item.post_id for item in fresh.feed.items]
        return still_standing(fresh, await self.check(user, shown, timeout_s=max(CHECK_S, refresh.left_s)))

    async def check(self, user: PublishedId, post_ids: Sequence[PublishedId], *, timeout_s: float = 1.0) -> list[str]:
        """The posts that the viewer may still see; see `Client.check`."""
        if not post_ids:
            return []
        deadline = time.monotonic() + timeout_s
        request_id = await self._request(feed_request(user, None, {"check_ids": list(post_ids)}), deadline)
        feed = await self.wait(user, request_id, deadline - time.monotonic())
        standing = {item.post_id for item in feed.items}
        return [form for form in map(published_form, post_ids) if form in standing]

    async def feed(self, user: PublishedId) -> Feed | None:
        """The newest feed of a user, if there is one."""
        key = feed_key(user_form(user))
        (document,) = await self._reads.read([("GET", key)])
        return decode_feed(key, document)

    async def explain(self, user: PublishedId) -> Explanation | None:
        """The explanation of the last feed that was requested with `explain=True`, if there is one."""
        key = explain_key(user_form(user))
        (document,) = await self._reads.read([("GET", key)])
        return decode_explanation(key, document)

    async def _request(self, request: FeedRequest, deadline: float | None) -> str:
        for message in messages_of(request):
            if not await self._send(message, deadline):
                raise not_sent(published_form(request.user_id), request.request_id, self._settings.kafka)
        return request.request_id

    async def _send(self, message: OutgoingMessage, deadline: float | None = None) -> bool:
        """False if the producer's queue is full until the deadline."""
        while not self._outbox.offer(message):
            self._outbox.serve()
            if deadline is not None and time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True
