"""The Kafka messages of an app's events."""

import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from infra.ports.clock import now_ms
from thunder_ingest.events import Event, FeedRequest, decode_any, encode, key_of, topic_of
from thunder_ingest.events.ids import PublishedId, published_form


class OutgoingMessage(NamedTuple):
    """A message to be published."""

    topic: str
    key: bytes | None
    value: bytes


def messages_of(events: Event | dict[str, Any] | Iterable[Event | dict[str, Any]]) -> Iterator[OutgoingMessage]:
    """The message of each event, for the topic of its type; raises `Refused` at the first invalid event."""
    for event in [events] if isinstance(events, dict | msgspec.Struct) else events:
        valid = decode_any(msgspec.json.encode(event))
        yield OutgoingMessage(topic_of(valid), published_form(key_of(valid)).encode(), encode(valid))


def feed_request(user: PublishedId, at: int | None, options: dict[str, Any]) -> FeedRequest:
    """A request with a new id; its time is `at`, or now."""
    at = at or now_ms()
    return FeedRequest(request_id=uuid.uuid4().hex, user_id=user, at=at, **options)
