"""What a reader makes of what stands in Redis: the answer to a request, the age of a feed, a refresh under way."""

import time
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec

from feed_worker.documents.explanation import Explanation
from feed_worker.documents.feed import Feed
from infra.ports.errors import ForYouError
from thunder_ingest.events import FeedStatus, unpack_feed_served
from thunder_ingest.events.redis_keys import answered_key, feed_key

Command: TypeAlias = tuple[str, ...]

LOOK_AGAIN_S: Final = 1.0
"""An announcement may be lost with a connection: whoever waits also looks by themselves, so often."""

REFRESH_S: Final = 10.0
"""A feed that was asked for so recently is not asked for again by whoever wants it fresh."""

WITHOUT_FEED: Final = ("expired", "failed")

_FEED = msgspec.json.Decoder(Feed)
decode_explanation = msgspec.json.Decoder(Explanation).decode


class FeedTimeout(ForYouError, TimeoutError):
    """No answer to a feed request arrived in time."""


class NoFeed(ForYouError, RuntimeError):
    """A request ended without a feed; the one that the user had before it, if any, is still there.

    Attributes:
        status: `failed`, or `expired` where a worker found it past its deadline.
        degradations: what failed, as far as it is known.

    """

    def __init__(self, user: str, request_id: str, status: FeedStatus, degradations: Sequence[str] = ()) -> None:
        self.status, self.degradations = status, list(degradations)
        why = "; ".join(degradations) or (
            "it was past its deadline: the workers are behind, or this machine's clock is"
            if status == "expired"
            else "the worker's log says why"
        )
        super().__init__(f"request {request_id} of user {user} {status}: {why}")


class Fresh(NamedTuple):
    """A feed, and whether it is older than was wanted because no newer one came in time."""

    feed: Feed
    is_stale: bool


def decode_feed(document: bytes | None) -> Feed | None:
    """The feed of what stands under `feed:{user}`."""
    return None if document is None else _FEED.decode(document)


def reads_of(user: str, request_id: str) -> tuple[Command, Command]:
    """The commands that look for an answer.

    In this order: an answer that is recorded has its feed written with it, so a feed read afterwards is no older.
    """
    return ("HGET", answered_key(user), request_id), ("GET", feed_key(user))


def answer_to(user: str, request_id: str, record: bytes | None, document: bytes | None) -> Feed | None:
    """The feed for whoever waits for a request, None while it is not answered.

    Args:
        user: published form, as everywhere here.
        request_id: the request.
        record: the packed `FeedServed` of the request.
        document: the user's feed, read after the record.

    Raises:
        NoFeed: it was answered without one.

    """
    feed = decode_feed(document)
    if feed and request_id in feed.answers:
        if feed.status in WITHOUT_FEED:
            raise NoFeed(user, request_id, feed.status, feed.degradations)
        return feed
    if record is None:
        return None
    served = unpack_feed_served(record)
    if served.status in WITHOUT_FEED:
        raise NoFeed(user, request_id, served.status, served.degradations)
    return feed  # of a later request: it has taken the place of this one's


def timed_out(user: str, request_id: str, timeout_s: float, undelivered: int, kafka: str) -> FeedTimeout:
    """The error of a wait that was in vain."""
    hint = f"Kafka at {kafka} has not taken it yet;" if undelivered else "is a worker running?"
    return FeedTimeout(
        f"no answer to request {request_id} of user {user} within {timeout_s:g} s: {hint} `foryou doctor` tells"
    )


class Held(NamedTuple):
    """The feed that a user has, and for how long, by the clock of Redis."""

    feed: Feed
    age_ms: int


def held(document: bytes | None, left_ms: int, ttl_s: int) -> Held | None:
    """What a user has to look at, None where that is nothing.

    Args:
        document: what stands under `feed:{user}`.
        left_ms: of its time to live.
        ttl_s: the time to live that workers give a feed (setting `feed_ttl_s`).

    """
    feed = decode_feed(document)
    if feed is None or feed.status in WITHOUT_FEED:
        return None
    age_ms = 1_000 * ttl_s - left_ms
    # a worker with a longer time to live than ours: its age is not known, and must not pass for young
    return Held(feed, age_ms if age_ms >= 0 else 1_000 * ttl_s)


class Refreshes:
    """The feeds that a client has asked for to have them fresh, so that many readers of one ask once."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[str, float]] = {}

    def under_way(self, user: str) -> str | None:
        """The request that is under way for a user."""
        request_id, began = self._asked.get(user, ("", float("-inf")))
        return request_id if time.monotonic() - began < REFRESH_S else None

    def begins(self, user: str, request_id: str) -> None:
        """Note a request, and forget those that are long past."""
        now = time.monotonic()
        while self._asked and now - next(iter(self._asked.values()))[1] >= REFRESH_S:
            del self._asked[next(iter(self._asked))]
        self._asked.pop(user, None)  # so that the oldest always stand first
        self._asked[user] = (request_id, now)

    def ends(self, user: str) -> None:
        """Note that it was answered."""
        self._asked.pop(user, None)
