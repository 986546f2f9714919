"""The client for apps with threads: publish events, request a feed, wait for it, read on.

with Client() as foryou:
    foryou.publish({"type": "follow", "user_id": 1, "target_id": 2, "at": 1700000000000})
    feed = foryou.wait(1, foryou.request_feed(1))
    more = foryou.next_page(feed)

`feed_worker.client.AsyncClient` has the same methods for asyncio. Keep a client open: the first message of a new one
takes about a second, for its connection and its producer id.
"""

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

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
from feed_worker.client.errors import FeedTimeout, Undelivered
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


class Client:
    """Publishes to Kafka and reads from Redis; any thread may call.

    A context manager: it delivers every message before it closes, also if its block raises.

    Raises:
        BrokerUnreachable, TopicMissing, RedisUnreachable: from the constructor, with the address and the remedy.

    """

    def __init__(self, settings: "Settings | None" = None) -> None:
        # redis-py, pydantic and librdkafka take several times as long to import as all else together
        from feed_worker.client.outbox import Outbox
        from feed_worker.client.redis_reads import RedisReads
        from infra.ports.consumer import partitions_of
        from infra.ports.settings import load

        self._settings = settings or load()
        partitions_of(self._settings, INPUTS)
        self._reads = RedisReads(self._settings)
        self.redis = self._reads.redis
        self._outbox = Outbox(self._settings)
        self._pending = PendingRequests()

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
        """Check events and hand them to Kafka, each to the topic of its type; wait while the producer's queue is full.

        Raises:
            thunder_ingest.events.Refused: at the first invalid event; those before it are published.
            Undelivered: the producer has failed.

        """
        for message in messages_of(events):
            self._send(message)

    def publish_raw(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Hand one message to Kafka as it is; wait while the producer's queue is full."""
        self._send(OutgoingMessage(topic, key, value))

    def flush(self, timeout_s: float = 30.0) -> dict[tuple[str, int], int]:
        """Wait until Kafka has every message.

        Returns:
            for each topic and partition written to so far, the offset after the last message delivered.

        Raises:
            Undelivered: a message is not delivered after `timeout_s`, or the broker refused one since the last call.

        """
        self._outbox.hurry(timeout_s)
        return self._outbox.delivered(timeout_s)

    def publish_and_wait(
        self, events: Event | dict[str, Any] | Iterable[Event | dict[str, Any]], timeout_s: float = 10.0
    ) -> None:
        """Publish events, and wait until they can be served; see `publish` and `wait_servable`."""
        self.publish(events)
        self.wait_servable(timeout_s)

    def wait_servable(self, timeout_s: float = 10.0) -> None:
        """Wait until the events that this client has published can be served.

        A feed requested afterwards, from any ready worker, is made with these posts, deletions, labels, engagements,
        follows, blocks, mutes and states of accounts. It may still lack vectors of new posts (out-of-network retrieval)
        and counts, which follow about a second later. An event that a flow refuses is a dead letter and counts as
        finished. The wait takes one to four seconds: flows commit once a second. A killed worker counts as ready for
        20 s.

        Raises:
            NotServable: the time is over; the text names the flow or the worker that is behind.
            Undelivered: as `flush`.
            RedisUnreachable, BrokerUnreachable: a server does not answer.

        """
        from feed_worker.client.servable import wait_servable

        deadline = time.monotonic() + timeout_s
        delivered = self.flush(timeout_s)
        wait_servable(self._settings, self.redis, delivered, deadline - time.monotonic())

    def request_feed(self, user: PublishedId, *, at: int | None = None, **options: Any) -> str:
        """Request a feed.

        Args:
            user: the viewer's id as published.
            at: time of the request, epoch milliseconds (default: now).
            options: `size`, `surface`, `in_network_only`, `exclude_videos`, `langs`, `seen_ids`, `explain`, `after`
                (the request id of the page before), `deadline_ms`. A deadline counts from `at` by the clock of the
                workers; the `timeout_s` of a wait needs no synchronised clocks.

        Returns:
            the request id, for `wait`.

        Raises:
            Refused: the user is no id, or an option cannot be used.

        """
        return self._request(feed_request(user, at, options), None)

    def wait(self, user: PublishedId, request_id: str, timeout_s: float = 10.0) -> Feed:
        """Wait for the answer to a request of the last hour.

        Returns:
            the feed that answers this very request, also one of status `empty`, which leaves the user's feed before in
            its place. It is kept for ten minutes after a later one has replaced it.

        Raises:
            NoFeed: the request failed or expired; `feed` still returns the feed that the user had before. Also if its
                feed was replaced too long ago, or by more than 16 others.
            FeedTimeout: no answer came within `timeout_s`, also if Redis hangs; the text names the next step.
            RedisUnreachable: Redis refuses or closes connections; the text has the address.
            Refused: the user or the request has no valid id.

        """
        form, deadline = user_form(user), time.monotonic() + timeout_s
        check_request_id(request_id)
        commands = answer_commands(form, request_id)
        try:
            if feed := answer_to(form, request_id, *self._reads.execute(commands, deadline)):
                return feed
            with self._reads.subscription(ready_channel(form), deadline) as announcements:
                while True:
                    if feed := answer_to(form, request_id, *self._reads.execute(commands, deadline)):
                        return feed
                    if (left_s := deadline - time.monotonic()) <= 0:
                        raise timed_out(form, request_id, timeout_s, self._outbox.hint)
                    announcements.get_message(timeout=min(left_s, LOOK_AGAIN_S))
        except FeedTimeout:
            raise
        except TimeoutError:
            raise timed_out(form, request_id, timeout_s, REDIS_HANGS) from None

    def next_page(self, feed: Feed, *, timeout_s: float = 10.0, at: int | None = None, **options: Any) -> Feed:
        """Request the page after a feed and wait for it: it repeats no post of an earlier page.

        After the last page comes a feed of status `empty`. Pages reach back over the viewer's last 500 served posts.

        Args:
            feed: the page before.
            timeout_s: as for `wait`, which also lists the errors.
            at: as for `request_feed`; by default later than that of the page before, even if another machine
                requested it.
            options: as for `request_feed`; those of the first page are not repeated.

        """
        at = at or max(now_ms(), feed.at + 1)
        request_id = self.request_feed(feed.user_id, at=at, after=feed.request_id, **options)
        return self.wait(feed.user_id, request_id, timeout_s)

    def fresh(self, user: PublishedId, *, max_age_ms: int = 60_000, timeout_s: float = 1.0, **options: Any) -> Fresh:
        """A feed that is young enough, if there is one; else a new one, if it comes in time; else the old one.

        An `empty` new one leaves an old one with items in its place. A feed that was there already is checked first
        (`check`): items that were deleted, labelled or blocked meanwhile are left out. Only one of the same `surface`
        counts. Redis counts the age, from the time to live that the workers give a feed: the setting `feed_ttl_s` must
        be theirs. A request of `fresh` with the same options that this client has published already is waited for
        instead of a new one.

        Args:
            user: the viewer's id as published.
            max_age_ms: greatest age that is young enough.
            timeout_s: time for a new feed. With 0 the old one is returned after its check, and a call a moment later
                finds the new one.
            options: of the request, as for `request_feed`.

        Raises:
            NoFeed, FeedTimeout: as `wait`, if there is no old feed, or no answer to its check within a second.
            RedisUnreachable: Redis does not answer; a Redis that hangs is given two seconds at least.

        """
        form, deadline = user_form(user), time.monotonic() + timeout_s
        replies = self._reads.read(stored_feed_commands(form), max(STORED_FEED_S, timeout_s))
        old = stored_feed(form, replies, self._settings.feed_ttl_s, options.get("surface") or "")
        refresh = Refresh(self._pending, Wanted.of(form, options), old, max_age_ms, deadline)
        if refresh.is_needed:
            with refresh.attempt():
                request_id = refresh.request_id or refresh.requested(
                    self._request(feed_request(user, None, options), deadline)
                )
                if refresh.waits:
                    refresh.answered(self.wait(user, request_id, refresh.left_s))
        fresh = refresh.result()
        if refresh.is_new:
            return fresh
        shown = [item.post_id for item in fresh.feed.items]
        return still_standing(fresh, self.check(user, shown, timeout_s=max(CHECK_S, refresh.left_s)))

    def check(self, user: PublishedId, post_ids: Sequence[PublishedId], *, timeout_s: float = 1.0) -> list[str]:
        """Ask a worker which posts the viewer may still see: all safety rules apply, as they are at this moment.

        Nothing is ranked, and nothing of it remains: no feed, no served posts, no record.

        Args:
            user: the viewer's id as published.
            post_ids: at most 200, as in a feed.
            timeout_s: of the wait.

        Returns:
            the published forms of the posts that still stand, in the given order.

        Raises:
            NoFeed, FeedTimeout, RedisUnreachable: as `wait`; no post is known to stand.

        """
        if not post_ids:
            return []
        deadline = time.monotonic() + timeout_s
        request_id = self._request(feed_request(user, None, {"check_ids": list(post_ids)}), deadline)
        feed = self.wait(user, request_id, deadline - time.monotonic())
        standing = {item.post_id for item in feed.items}
        return [form for form in map(published_form, post_ids) if form in standing]

    def feed(self, user: PublishedId) -> Feed | None:
        """The newest feed of a user, as it was made; raises RedisUnreachable.

        What happened to its posts since then is not applied: `check` reports it, and `fresh` applies it.
        """
        key = feed_key(user_form(user))
        (document,) = self._reads.read([("GET", key)])
        return decode_feed(key, document)

    def explain(self, user: PublishedId) -> Explanation | None:
        """The explanation of the last feed requested with `explain=True`, if there is one; raises RedisUnreachable."""
        key = explain_key(user_form(user))
        (document,) = self._reads.read([("GET", key)])
        return decode_explanation(key, document)

    def close(self) -> None:
        """Close the connections; call `flush` first to deliver every message."""
        self._reads.close()

    def _request(self, request: FeedRequest, deadline: float | None) -> str:
        for message in messages_of(request):
            if not self._send(message, deadline):
                raise not_sent(published_form(request.user_id), request.request_id, self._settings.kafka)
        self._outbox.hurry(0.05)
        return request.request_id

    def _send(self, message: OutgoingMessage, deadline: float | None = None) -> bool:
        """False if the producer's queue is full until the deadline."""
        while not self._outbox.offer(message):
            if deadline is not None and time.monotonic() >= deadline:
                return False
            self._outbox.serve(0.1 if deadline is None else min(0.1, max(0.0, deadline - time.monotonic())))
        return True
