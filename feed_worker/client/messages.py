"""The Kafka messages of an app's events."""

import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from infra.ports.clock import now_ms
from thunder_ingest.events import Event, FeedRequest, Refused, decode_any, encode, key_of, topic_of
from thunder_ingest.events.ids import ID_RULE, PublishedId, id64, published_form


class OutgoingMessage(NamedTuple):
    """A message to be published."""

    topic: str
    key: bytes | None
    value: bytes


def messages_of(events: Event | dict[str, Any] | Iterable[Event | dict[str, Any]]) -> Iterator[OutgoingMessage]:
    """The message of each event, for the topic of its type; raises `Refused` at the first invalid event."""
    if not isinstance(events, Iterable | msgspec.Struct) or isinstance(events, str | bytes | bytearray):
        raise Refused(f"an event is a dict or an object of thunder_ingest.events, not {type(events).__name__}")
    for event in [events] if isinstance(events, dict | msgspec.Struct) else events:
        valid = decode_any(_as_json(event))
        yield OutgoingMessage(topic_of(valid), published_form(key_of(valid)).encode(), encode(valid))


def _as_json(event: object) -> bytes:
    if not isinstance(event, dict | msgspec.Struct):
        raise Refused(f"an event is a dict or an object of thunder_ingest.events, not {type(event).__name__}")
    fields = event if isinstance(event, dict) else msgspec.structs.asdict(event)
    for name, value in fields.items():
        for each in value if isinstance(value, list | tuple | set | frozenset) else (value,):
            if isinstance(each, bytes | bytearray | memoryview):  # msgspec would encode them as base64
                raise Refused(f"{type(each).__name__} are no text: decode them first - at `$.{name}`")
    try:
        return msgspec.json.encode(event)
    except (TypeError, ValueError, RecursionError) as error:  # also for half of a surrogate pair
        raise Refused(f"the event cannot be written as JSON in UTF-8: {error}") from None


def user_form(user: PublishedId) -> str:
    """The published form of a user's id; raises `Refused` for anything that is no id."""
    if type(user) not in (int, str):
        raise Refused(f"{ID_RULE}, not {type(user).__name__} - at `$.user_id`")
    try:
        id64(user)
    except ValueError as error:
        raise Refused(f"{error} - at `$.user_id`") from None
    return published_form(user)


def check_request_id(request_id: str) -> None:
    """Raise `Refused` for anything that no request has as its id."""
    if not isinstance(request_id, str):
        raise Refused(f"a request id is a text, not {type(request_id).__name__}")
    try:
        request_id.encode()
    except UnicodeEncodeError as error:
        raise Refused(f"a request id is text in UTF-8: {error}") from None


def feed_request(user: PublishedId, at: int | None, options: dict[str, Any]) -> FeedRequest:
    """A request with a new id; its time is `at`, or now. Raises `Refused` for a user that is no id."""
    user_form(user)
    at = at or now_ms()
    return FeedRequest(request_id=uuid.uuid4().hex, user_id=user, at=at, **options)
