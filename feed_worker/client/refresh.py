"""`fresh` of both clients: return a young feed, else request one, else return the old one."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Self

import msgspec

from feed_worker.client.answer_lookup import STATUSES_WITHOUT_FEED, Command, decode_feed, decode_replaced
from feed_worker.client.errors import FeedTimeout, NoFeed
from feed_worker.documents.feed import Feed
from thunder_ingest.events.redis_keys import feed_key, replaced_key

PENDING_S: Final = 10.0
"""A request that is younger than this is waited for; another one would not be answered sooner."""

STORED_FEED_S: Final = 2.0
"""Least time for the read of the stored feed, which comes before any wait: `timeout_s` may be 0."""


class Fresh(NamedTuple):
    """A feed; `is_stale` if it is older than the caller wanted and no newer one came in time."""

    feed: Feed
    is_stale: bool


CHECK_S: Final = 1.0
"""Least time for the check of a stored feed."""


def still_standing(fresh: Fresh, standing: Sequence[str]) -> Fresh:
    """The feed with the items that still stand; stale if none does."""
    feed, items = fresh.feed, [item for item in fresh.feed.items if item.post_id in standing]
    if len(items) == len(feed.items):
        return fresh
    status = feed.status if items else "empty"
    return Fresh(msgspec.structs.replace(feed, items=items, status=status), fresh.is_stale or not items)


class StoredFeed(NamedTuple):
    """The feed that a user has, and its age by the clock of Redis."""

    feed: Feed
    age_ms: int


def stored_feed_commands(user: str) -> tuple[Command, ...]:
    """The commands that read a user's feeds and the rest of the newest one's time to live."""
    return ("GET", feed_key(user)), ("PTTL", feed_key(user)), ("LRANGE", replaced_key(user), "0", "-1")


def stored_feed(user: str, replies: Sequence[Any], ttl_s: int, surface: str) -> StoredFeed | None:
    """The newest feed that a user has for a surface, one with items if there is one; None if there is none.

    Args:
        user: published form of the id.
        replies: to `stored_feed_commands`.
        ttl_s: the time to live that workers give a feed (setting `feed_ttl_s`).
        surface: of the request.

    """
    document, left_ms, replaced = replies
    newest = decode_feed(feed_key(user), document)
    if newest is None:
        return None
    age_ms = 1_000 * ttl_s - left_ms
    if age_ms < 0:  # the worker's time to live is longer than ours: the age is unknown and must not pass for young
        age_ms = 1_000 * ttl_s
    feeds = [each for each in (newest, *decode_replaced(user, replaced)) if each.surface == surface]
    feed = max(
        (each for each in feeds if each.status not in STATUSES_WITHOUT_FEED),
        key=lambda each: (bool(each.items), each.arrived_at, each.offset),
        default=None,
    )
    return None if feed is None else StoredFeed(feed, age_ms + max(0, newest.generated_at - feed.generated_at))


class Wanted(NamedTuple):
    """A user (published form of the id) and the options of the wanted feed."""

    user: str
    options: str

    @classmethod
    def of(cls, user: str, options: Mapping[str, Any]) -> Self:
        """Equal for equal options."""
        return cls(user, repr(sorted(options.items())))


class PendingRequests:
    """The pending requests of `fresh`, so that many readers of one user and the same options request one feed.

    Any thread may call.
    """

    def __init__(self) -> None:
        self._requests: dict[Wanted, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def of(self, wanted: Wanted) -> str | None:
        """The id of the pending request."""
        request_id, began = self._requests.get(wanted, ("", float("-inf")))
        return request_id if time.monotonic() - began < PENDING_S else None

    def add(self, wanted: Wanted, request_id: str) -> None:
        """Add a request, and remove those that are too old."""
        with self._lock:
            now = time.monotonic()
            while self._requests and now - next(iter(self._requests.values()))[1] >= PENDING_S:
                del self._requests[next(iter(self._requests))]
            self._requests.pop(wanted, None)  # so that the oldest is always first
            self._requests[wanted] = (request_id, now)

    def remove(self, wanted: Wanted) -> None:
        """Remove a request: it was answered."""
        with self._lock:
            self._requests.pop(wanted, None)


class Refresh:
    """One call of `fresh`: the decisions that both clients share.

    Args:
        pending: the pending requests of the client.
        wanted: the user and the options.
        old: the feed that the user has for the surface.
        max_age_ms: a feed of at most this age is young enough.
        deadline: the end of the wait for a new feed, by the monotonic clock.

    """

    def __init__(
        self, pending: PendingRequests, wanted: Wanted, old: StoredFeed | None, max_age_ms: int, deadline: float
    ) -> None:
        self._pending, self._wanted, self._old, self._deadline = pending, wanted, old, deadline
        self._new: Feed | None = None
        self.is_needed = old is None or old.age_ms > max_age_ms
        self.request_id = pending.of(wanted)

    @property
    def is_new(self) -> bool:
        """True if there is a new feed: it needs no check."""
        return self._new is not None

    @property
    def waits(self) -> bool:
        """True if there is time to wait for the answer, or no old feed to return."""
        return self._old is None or time.monotonic() < self._deadline

    @property
    def left_s(self) -> float:
        """The rest of the time."""
        return max(0.0, self._deadline - time.monotonic())

    def requested(self, request_id: str) -> str:
        """Keep the request that was published."""
        self._pending.add(self._wanted, request_id)
        return request_id

    def answered(self, feed: Feed) -> None:
        """Keep the answer; an empty one does not take an old feed with items away."""
        if feed.items or self._old is None or not self._old.feed.items:
            self._new = feed
        self._pending.remove(self._wanted)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """A block that requests and waits: its FeedTimeout or NoFeed passes only if there is no old feed."""
        try:
            yield
        except FeedTimeout:
            if self._old is None:
                raise
        except NoFeed:
            self._pending.remove(self._wanted)
            if self._old is None:
                raise

    def result(self) -> Fresh:
        """The new feed, or the old one, stale if a new one was needed."""
        if self._new is not None:
            return Fresh(self._new, is_stale=False)
        assert self._old is not None, "without an old feed the attempt has returned a new one, or raised"
        return Fresh(self._old.feed, is_stale=self.is_needed)
