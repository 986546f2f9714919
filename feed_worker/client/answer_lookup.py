"""The answer to a feed request, as it is read from Redis."""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, TypeVar

import msgspec

from feed_worker.client.errors import FeedTimeout, NoFeed
from feed_worker.documents.explanation import Explanation
from feed_worker.documents.feed import Feed
from infra.ports.broken_keys import broken_keys
from thunder_ingest.events import unpack_feed_served
from thunder_ingest.events.redis_keys import answered_before_key, answered_key, feed_key, preview_key, replaced_key

Command: TypeAlias = tuple[str, ...]
T = TypeVar("T")

LOOK_AGAIN_S: Final = 1.0
"""An announcement may be lost with a connection, so a waiting client also reads the answer this often."""

REDIS_HANGS: Final = "Redis does not reply"

STATUSES_WITHOUT_FEED: Final = ("expired", "failed")

_FEED: Final = msgspec.json.Decoder(Feed).decode
_EXPLANATION: Final = msgspec.json.Decoder(Explanation).decode


def decode_feed(key: str, document: bytes | None) -> Feed | None:
    """The feed of a document under a key; None, as for a missing one, for a document that cannot be read."""
    return _decoded(key, document, _FEED)


def decode_explanation(key: str, document: bytes | None) -> Explanation | None:
    """The explanation of a document, like `decode_feed`."""
    return _decoded(key, document, _EXPLANATION)


def decode_replaced(user: str, documents: Sequence[bytes] | None) -> list[Feed]:
    """The feeds of a user that are not the newest; None stands for a list that cannot be read."""
    key = replaced_key(user)
    return [feed for document in documents or () if (feed := decode_feed(key, document))]


def _decoded(key: str, document: bytes | None, decode: Callable[[bytes], T]) -> T | None:
    if document is None:
        return None
    try:
        return decode(document)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        broken_keys.skip(key, error)
        return None


def answer_commands(user: str, request_id: str) -> tuple[Command, ...]:
    """The commands that read an answer; `answer_to` takes their replies.

    In this order: a worker writes the feed together with the record, so a feed that is read later is no older. A feed
    that is replaced between two commands is in the list of the last one.
    """
    return (
        ("HGET", answered_key(user), request_id),
        ("HGET", answered_before_key(user), request_id),
        ("GET", feed_key(user)),
        ("LRANGE", replaced_key(user), "0", "-1"),
        ("GET", preview_key(user, request_id)),
    )


def answer_to(
    user: str,
    request_id: str,
    new: bytes | None,
    old: bytes | None,
    document: bytes | None,
    replaced: Sequence[bytes] | None,
    preview: bytes | None = None,
) -> Feed | None:
    """The feed that answers a request, None before the answer.

    Args:
        user: published form of the id.
        request_id: the request.
        new: the packed `FeedServed` of the request, if it is among the newest answers.
        old: the same, if it is among the answers before.
        document: the user's newest feed, read after the records.
        replaced: the user's feeds of the last minutes that are not the newest.
        preview: the answer to a request that leaves no other trace.

    Raises:
        NoFeed: the answer has no feed, or it is too long ago.

    """
    feed = decode_feed(preview_key(user, request_id), preview) or decode_feed(feed_key(user), document)
    if feed and request_id in feed.answers:
        if feed.status in STATUSES_WITHOUT_FEED:
            raise NoFeed(user, request_id, feed.status, feed.degradations)
        return feed
    served = _decoded(answered_key(user), new, unpack_feed_served)
    served = served or _decoded(answered_before_key(user), old, unpack_feed_served)
    if served is None:
        return None
    if served.status in STATUSES_WITHOUT_FEED:
        raise NoFeed(user, request_id, served.status, served.degradations)
    stored: list[Feed] = [*([feed] if feed else ()), *decode_replaced(user, replaced)]
    answering = [each for each in stored if request_id in each.answers]
    # a request that was merged with one that had been answered before has that one's record, and is not in its feed
    answering += [each for each in stored if (each.at, each.generated_at) == (served.at, served.served_at)]
    if not answering:
        raise NoFeed(user, request_id, served.status, ["its feed was replaced by those of later requests"])
    return answering[0]


def timed_out(user: str, request_id: str, timeout_s: float, reason: str) -> FeedTimeout:
    """The error of a wait whose time is over."""
    return FeedTimeout(
        f"no answer to request {request_id} of user {user} within {timeout_s:g} s: {reason}; see `foryou doctor`"
    )


def not_sent(user: str, request_id: str, kafka: str) -> FeedTimeout:
    """The error of a request that the producer's full queue did not take in time."""
    return FeedTimeout(
        f"request {request_id} of user {user} was not sent: the producer's queue is full, because Kafka at {kafka} "
        "does not take its messages; see `foryou doctor`"
    )
