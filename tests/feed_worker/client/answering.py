"""Answers to feed requests: as a worker writes them, for the tests of those who wait; and as readers find them."""

import itertools
from typing import Any, cast

from feed_worker.client.answer_lookup import decode_explanation, decode_feed, decode_replaced
from feed_worker.documents.explanation import Explanation
from feed_worker.documents.feed import Feed, FeedItem
from feed_worker.serving.feed_store import Answer, FeedStore
from infra.ports.redis import Client, connect
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from thunder_ingest.events import FeedRequest, FeedServed, FeedStatus, decode, unpack_feed_served
from thunder_ingest.events.ids import id64, published_form
from thunder_ingest.events.redis_keys import answered_before_key, answered_key, explain_key, feed_key, replaced_key

T0 = 1_700_000_000_000

_users = itertools.count(1_000)


def new_user() -> int:
    """A viewer that no other test uses, because tests share the servers."""
    return next(_users)


def feed_of(user: int | str, request_id: str, at: int = T0, status: FeedStatus = "ok", **fields: Any) -> Feed:
    """A feed; with an item, where the status promises one."""
    item = FeedItem(
        rank=1,
        post_id="7",
        author_id="8",
        kind="original",
        source="thunder",
        in_network=True,
        score=0.5,
        created_at=at,
        reasons=[],
    )
    parts: dict[str, Any] = {"generated_at": at, "model_version": "m", "parameters": "p", "degradations": []} | fields
    parts = {"arrived_at": at} | parts
    items = [item] if status in ("ok", "degraded") else []
    return Feed(
        at=at, request_id=request_id, user_id=str(user), status=status, items=items, answers=[request_id], **parts
    )


def answer(settings: Settings, feed: Feed) -> Feed:
    """Write and announce a feed, as a worker does."""
    served = [
        FeedServed(
            request_id=request_id,
            user_id=id64(feed.user_id),
            user_form=feed.user_id,
            at=feed.at,
            served_at=feed.generated_at,
            status=feed.status,
            model_version=feed.model_version,
            parameters=feed.parameters,
            degradations=feed.degradations,
        )
        for request_id in feed.answers
    ]
    redis = connect(settings)
    FeedStore(redis, settings.feed_ttl_s).write([Answer(feed, None, served)])
    redis.close()
    return feed


def requests_of(settings: Settings, user: int) -> list[FeedRequest]:
    """The feed requests of a user that are in Kafka."""
    found = [decode("feed-requests", m.value()) for batch in scan(settings, ["feed-requests"]) for m in batch]
    return [request for request in found if published_form(request.user_id) == str(user)]


def feed_in(client: Client, user: str) -> Feed | None:
    """The feed of a user (published form)."""
    return decode_feed(feed_key(user), cast(bytes | None, client.get(feed_key(user))))


def explanation_in(client: Client, user: str) -> Explanation | None:
    """The explanation that a user has."""
    return decode_explanation(explain_key(user), cast(bytes | None, client.get(explain_key(user))))


def record_in(client: Client, user: str, request_id: str) -> FeedServed | None:
    """The record of an answered request."""
    keys = answered_key(user), answered_before_key(user)
    records = [cast(bytes | None, client.hget(key, request_id)) for key in keys]
    return next((unpack_feed_served(record) for record in records if record), None)


def replaced_in(client: Client, user: str) -> list[Feed]:
    """The feeds of a user that are not the newest, the last one first."""
    documents = cast(list[bytes], client.lrange(replaced_key(user), 0, -1))
    return decode_replaced(user, documents)
