"""The codec of the events that apps publish, with their topic and key."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, get_args

import msgspec

from thunder_ingest.events.checks import CHECKS, tidied
from thunder_ingest.events.ids import MAX_ID, PublishedId, id64
from thunder_ingest.events.published import (
    INPUT_TYPES,
    MAX_MESSAGE_BYTES,
    EngagementEvent,
    Event,
    FeedRequest,
    PostEvent,
)
from thunder_ingest.events.refusals import Refused, in_words

_DECODERS: Final = {topic: msgspec.json.Decoder(type_).decode for topic, type_ in INPUT_TYPES.items()}
_DECODE_ANY: Final = msgspec.json.Decoder(Event).decode
_JSON: Final = msgspec.json.Encoder()


def decode(topic: str, raw: bytes | None) -> Any:
    """Decode and validate one message of an input topic.

    Returns:
        an event of `INPUT_TYPES[topic]`.

    Raises:
        Refused: the message cannot be used; the text is the reason.

    """
    if raw is None:
        raise Refused("an empty message (null value)")
    _check_size(raw)
    return _decoded(_DECODERS[topic], INPUT_TYPES[topic], raw)


def decode_all(topic: str, raws: Sequence[bytes | None]) -> list[Any]:
    """Decode messages like `decode`: the event of each, or `Refused` with the reason. The hot path of the flows."""
    decoder, found = _DECODERS[topic], []
    for raw in raws:
        try:
            if raw is None or len(raw) > MAX_MESSAGE_BYTES:
                raise ValueError
            event = decoder(raw)
            CHECKS[type(event)](event)
        except (ValueError, RecursionError):  # again, with fewer fields, or for the reason
            event = _decoded_or_refused(topic, raw)
        found.append(event)
    return found


def _decoded_or_refused(topic: str, raw: bytes | None) -> Any:
    try:
        return decode(topic, raw)
    except Refused as reason:
        return reason


def decode_any(raw: bytes | str) -> Event:
    """Decode an event of any input topic; raises `Refused` like `decode`."""
    _check_size(raw)
    event: Event = _decoded(_DECODE_ANY, Event, raw)
    return event


def _check_size(raw: bytes | str) -> None:
    if len(raw) > MAX_MESSAGE_BYTES:
        raise Refused(f"a message of {len(raw):,} bytes; at most {MAX_MESSAGE_BYTES:,} are allowed")


_ASKED_CHARACTERS: Final = 4_096
"""Longest request id of a refused request that is answered: some apps make ids that are too long."""


class _Asker(msgspec.Struct):
    """The fields of a feed request that an answer needs."""

    request_id: (
        Annotated[str, msgspec.Meta(min_length=1, max_length=_ASKED_CHARACTERS)]
        | Annotated[int, msgspec.Meta(ge=-MAX_ID, le=MAX_ID)]
    )
    user_id: PublishedId
    type: Any = None


_DECODE_ASKER: Final = msgspec.json.Decoder(_Asker).decode
_OTHER_TYPES: Final = {variant.__struct_config__.tag for variant in get_args(Event)} - {"feed_request"}


def readable_request(raw: bytes | None, at_ms: int) -> FeedRequest | None:
    """A request with the viewer and the request id of a refused one, to answer it; None if they cannot be read.

    Args:
        raw: the message, which `decode` has refused. Its request id may be an integer or too long.
        at_ms: the time of the request.

    """
    try:
        asker = _DECODE_ASKER(raw or b"")
        id64(asker.user_id)
    except (ValueError, RecursionError):
        return None
    if isinstance(asker.type, str) and asker.type in _OTHER_TYPES:  # an event that went to the wrong topic
        return None
    return FeedRequest(request_id=str(asker.request_id), user_id=asker.user_id, at=at_ms)


def encode(event: Event) -> bytes:
    """The JSON message of an event."""
    return _JSON.encode(event)


def topic_of(event: Event) -> str:
    """The input topic that an event belongs to."""
    if isinstance(event, PostEvent):
        return "posts"
    if isinstance(event, EngagementEvent):
        return "engagements"
    return "feed-requests" if isinstance(event, FeedRequest) else "social-graph"


def key_of(event: Event) -> PublishedId:
    """The published id that keys an event in its topic: the author's for posts, else the user's.

    A label or a deletion without an author is keyed by its post.
    """
    if isinstance(event, PostEvent):
        return event.post_id if event.author_id is None else event.author_id
    return event.user_id


def _decoded(decoder: Callable[[bytes | str], Any], expected: Any, raw: bytes | str) -> Any:
    try:
        return _checked(decoder, raw)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        variants, reason = get_args(expected) or (expected,), error
    if (plain := tidied(raw, variants)) is not None:
        try:
            return _checked(decoder, plain)
        except ValueError as error:
            reason = error
    raise reason if isinstance(reason, Refused) else Refused(in_words(str(reason), variants)) from None


def _checked(decoder: Callable[[bytes | str], Any], raw: bytes | str) -> Any:
    event = decoder(raw)
    CHECKS[type(event)](event)
    return event
