"""The app's side: publish events, ask for a feed, wait for it, read on.

with Client() as foryou:
    foryou.publish({"type": "follow", "user_id": 1, "target_id": 2, "at": 1700000000000})
    feed = foryou.wait(1, foryou.request_feed(1))
    more = foryou.next_page(feed)

`feed_worker.client.AsyncClient` has the same verbs for asyncio. Keep a client open: the first message of a new one
takes about a second, for its connection and its producer id.
"""

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self, cast

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
from feed_worker.documents.explanation import Explanation
from feed_worker.documents.feed import Feed
from infra.ports.kafka import partitions_of
from infra.ports.redis import connect, subscription, unreachable
from infra.ports.settings import Settings, load
from infra.ports.topics import INPUTS
from thunder_ingest.events import Event
from thunder_ingest.events.ids import PublishedId, published_form
from thunder_ingest.events.redis_keys import explain_key, feed_key, ready_channel

__all__ = ["Client", "FeedTimeout", "Fresh", "NoFeed", "Undelivered"]


class Client:
    """Publishes to Kafka and reads from Redis; a context manager that delivers everything before it closes.

    Raises:
        BrokerUnreachable, TopicMissing, RedisUnreachable: when it is made, with the address and what to do.

    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or load()
        partitions_of(self._settings, INPUTS)
        self.redis = connect(self._settings)
        self._outbox = Outbox(self._settings)
        self._refreshes = Refreshes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
        except Undelivered as undelivered:
            if error is None:
                raise
            error.add_note(str(undelivered))  # the block's own error is the one that is raised
        finally:
            self.close()

    def publish(self, events: Event | dict[str, Any] | Iterable[Event | dict[str, Any]]) -> None:
        """Check events and hand them to Kafka, each to the topic of its type.

        Raises:
            thunder_ingest.events.Refused: for the first event that the flows would refuse; those before it are sent.

        """
        for message in checked(events):
            self._send(message)

    def publish_raw(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Hand one message to Kafka as it is; waits while the producer's queue is full."""
        self._send(Outgoing(topic, key, value))

    def _send(self, message: Outgoing) -> None:
        while not self._outbox.offer(message):
            self._outbox.serve(0.1)

    def flush(self, timeout_s: float = 30.0) -> dict[tuple[str, int], int]:
        """Wait until Kafka has everything.

        Returns:
            for each topic and partition written to so far, the offset after the last message delivered.

        Raises:
            Undelivered: something is not there after `timeout_s`, or was refused by the broker.

        """
        self._outbox.hurry(timeout_s)
        return self._outbox.delivered(timeout_s)

    def request_feed(self, user: PublishedId, *, at: int | None = None, **options: Any) -> str:
        """Ask for a feed.

        Args:
            user: the viewer's id as published.
            at: the time of the request, epoch milliseconds; now, if not given.
            options: `size`, `surface`, `in_network_only`, `exclude_videos`, `langs`, `seen_ids`, `explain`, `after`
                (the request id of a page: what this one continues), `deadline_ms`. A deadline counts from `at` by the
                clock of the workers; the `timeout_s` of those who wait needs no clocks in step.

        Returns:
            the request id, for `wait`.

        """
        request = feed_request(user, at, options)
        self.publish(request)
        self._outbox.hurry(0.05)
        return request.request_id

    def wait(self, user: PublishedId, request_id: str, timeout_s: float = 10.0) -> Feed:
        """Wait for the answer to a request of the last hour.

        Returns:
            the feed that answers it, or that of a later request where one has replaced it.

        Raises:
            NoFeed: the request failed or expired; what the user had before is still there for `feed`.
            FeedTimeout: saying what to look at.
            infra.ports.redis.RedisUnreachable: naming the address.

        """
        try:
            return self._awaited(published_form(user), request_id, timeout_s)
        except redis.ConnectionError as error:
            raise unreachable(self._settings, error) from None

    def _awaited(self, form: str, request_id: str, timeout_s: float) -> Feed:
        deadline = time.monotonic() + timeout_s
        with subscription(self.redis) as announced:
            announced.subscribe(ready_channel(form))
            announced.get_message(timeout=timeout_s)  # the confirmation: from now on no announcement is missed
            while True:
                if feed := answer_to(form, request_id, *self._read(*reads_of(form, request_id))):
                    return feed
                if (left := deadline - time.monotonic()) <= 0:
                    raise timed_out(form, request_id, timeout_s, self._outbox.waiting, self._settings.kafka)
                announced.get_message(timeout=min(left, LOOK_AGAIN_S))

    def next_page(self, feed: Feed, *, timeout_s: float = 10.0, at: int | None = None, **options: Any) -> Feed:
        """Ask for the page after a feed and wait for it: none of its posts was on an earlier page.

        After the last page comes a feed of status `empty`. How far back pages are remembered: the viewer's last 500
        posts served.

        Args:
            feed: the page before.
            timeout_s: as for `wait`, which also says what is raised.
            at: as for `request_feed`; later than that of the page before, even where another machine asked for it.
            options: as for `request_feed`; those of the first page are not remembered.

        """
        at = at or max(time.time_ns() // 1_000_000, feed.at + 1)
        request_id = self.request_feed(feed.user_id, at=at, after=feed.request_id, **options)
        return self.wait(feed.user_id, request_id, timeout_s)

    def fresh(self, user: PublishedId, *, max_age_ms: int = 60_000, timeout_s: float = 1.0, **options: Any) -> Fresh:
        """A feed that is young enough, at once where there is one; else a new one, if it comes in time; else the old.

        Age is counted by Redis, from the time to live that the workers give a feed: `feed_ttl_s` must be theirs.
        Where a feed is asked for already, by this client and for `fresh`, that one is waited for.

        Args:
            user: the viewer's id as published.
            max_age_ms: a feed is young enough up to here.
            timeout_s: how long a new one may take. With 0 the old one is returned at once, and the new one is there
                for whoever asks a moment later.
            options: of the request, as for `request_feed`.

        Raises:
            NoFeed, FeedTimeout: as `wait`, where there is no old one either.

        """
        form = published_form(user)
        old = self._held(form)
        if old and old.age_ms <= max_age_ms:
            return Fresh(old.feed, is_stale=False)
        request_id = self._refreshes.under_way(form)
        if request_id is None:
            request_id = self.request_feed(user, **options)
            self._refreshes.begins(form, request_id)
        if old and timeout_s <= 0:
            return Fresh(old.feed, is_stale=True)
        try:
            new = self.wait(user, request_id, timeout_s)
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

    def feed(self, user: PublishedId) -> Feed | None:
        """The newest feed of a user, if there is one."""
        (document,) = self._read(("GET", feed_key(published_form(user))))
        return decode_feed(document)

    def explain(self, user: PublishedId) -> Explanation | None:
        """The explanation of the last feed that was requested with `explain=True`, if there is one."""
        (document,) = self._read(("GET", explain_key(published_form(user))))
        return None if document is None else decode_explanation(document)

    def close(self) -> None:
        """Let go of the connections; `flush` first what must arrive."""
        self.redis.close()

    def _held(self, form: str) -> Held | None:
        document, left_ms = self._read(("GET", feed_key(form)), ("PTTL", feed_key(form)))
        return held(document, cast(int, left_ms), self._settings.feed_ttl_s)

    def _read(self, *commands: tuple[str, ...]) -> list[bytes | None]:
        with self.redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            replies: list[bytes | None] = pipe.execute()
        return replies
