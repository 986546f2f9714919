"""The checks of an event that types cannot express: string ids and fields that depend on each other."""

import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from msgspec.structs import fields as fields_of

from thunder_ingest.events.ids import PublishedId, id64
from thunder_ingest.events.labels import label_name
from thunder_ingest.events.published import (
    MAX_TEXT,
    Account,
    Block,
    Engagement,
    FeedRequest,
    Follow,
    Impression,
    Mute,
    MuteKeyword,
    PostCreated,
    PostDeleted,
    PostLabeled,
    Subscribe,
    Unblock,
    Unfollow,
    Unmute,
    UnmuteKeyword,
    Unsubscribe,
)
from thunder_ingest.events.refusals import Refused

_MAX_GROWTH: Final = 18
"""The normalisation NFKC makes at most so many characters of one."""

# only a string can be an invalid id: the type has the bounds of an integer; written out, as it runs for each message


def _check_engagement(event: Engagement) -> None:
    if type(event.user_id) is str or type(event.post_id) is str or type(event.author_id) is str:
        _check_ids(event.user_id, event.post_id, event.author_id)
    if event.action == "dwell_time" and event.dwell_ms is None and not event.undo:
        raise Refused("a dwell_time needs `dwell_ms` - at `$.dwell_ms`")


def _check_viewed(event: Impression) -> None:
    if type(event.user_id) is str or type(event.post_id) is str or type(event.author_id) is str:
        _check_ids(event.user_id, event.post_id, event.author_id)


def _check_deleted(event: PostDeleted) -> None:
    _check_ids(event.post_id, event.author_id)


def _check_labeled(event: PostLabeled) -> None:
    _check_ids(event.post_id, event.author_id)
    if not label_name(event.label):
        raise Refused("a label needs a name - at `$.label`")


def _check_created(event: PostCreated) -> None:
    if (
        type(event.post_id) is str
        or type(event.author_id) is str
        or type(event.conversation_id) is str
        or type(event.in_reply_to_post_id) is str
        or type(event.in_reply_to_author_id) is str
        or type(event.source_post_id) is str
        or type(event.source_author_id) is str
    ):
        _check_ids(event.post_id, event.author_id, event.conversation_id, event.in_reply_to_post_id)
        _check_ids(event.in_reply_to_author_id, event.source_post_id, event.source_author_id)
    if event.text is not None and len(event.text) > MAX_TEXT // _MAX_GROWTH and not event.text.isascii():
        _check_normalised(event.text)
    if event.kind == "original":
        return
    if event.kind in ("repost", "quote") and event.source_post_id is None:
        raise Refused(f"a {event.kind} needs `source_post_id` - at `$.source_post_id`")
    if event.kind == "reply" and event.in_reply_to_post_id is None:
        raise Refused("a reply needs `in_reply_to_post_id` - at `$.in_reply_to_post_id`")


def _check_normalised(text: str) -> None:
    length = len(unicodedata.normalize("NFKC", text))
    if length > MAX_TEXT:
        raise Refused(f"a text of {length:,} characters when normalised (NFKC); at most {MAX_TEXT:,} - at `$.text`")


def _check_edge(event: Follow) -> None:
    if id64(event.user_id) == id64(event.target_id):
        raise Refused(f"a user cannot {event.__struct_config__.tag} themselves - at `$.target_id`")


def _check_account(event: Account) -> None:
    id64(event.user_id)


def _check_keyword(event: MuteKeyword) -> None:
    from thunder_ingest.events.muting import is_empty  # loaded for rare messages only

    id64(event.user_id)
    if is_empty(event.keyword):
        raise Refused("a keyword needs a letter, a digit, an emoji or signs that are not punctuation - at `$.keyword`")


def _check_request(event: FeedRequest) -> None:
    for published in (event.user_id, *(event.seen_ids or ()), *(event.check_ids or ())):
        id64(published)


def _check_ids(*published: PublishedId | None) -> None:
    for each in published:
        if each is not None:
            id64(each)


CHECKS: Final[dict[type, Callable[[Any], None]]] = {
    PostCreated: _check_created,
    PostDeleted: _check_deleted,
    PostLabeled: _check_labeled,
    Impression: _check_viewed,
    Engagement: _check_engagement,
    **dict.fromkeys((Follow, Unfollow, Block, Unblock, Mute, Unmute, Subscribe, Unsubscribe), _check_edge),
    **dict.fromkeys((MuteKeyword, UnmuteKeyword), _check_keyword),
    Account: _check_account,
    FeedRequest: _check_request,
}
"""For each event a check of its ids and dependent fields; it raises `Refused`, or ValueError for an invalid id."""

_EMPTY: Final = (b"null", b'""', b"0")
_IDS: Final = frozenset(
    (
        "conversation_id",
        "in_reply_to_post_id",
        "in_reply_to_author_id",
        "source_post_id",
        "source_author_id",
        "author_id",
    )
)
_EMPTY_ID: Final = (*_EMPTY, b'"0"')  # exporters of Protocol Buffers write 64-bit integers as strings


def empty_defaults(name: str) -> tuple[bytes, ...]:
    """The values, in JSON, with which an optional field counts as absent."""
    return _EMPTY_ID if name in _IDS else _EMPTY


def tidied(raw: bytes | str, variants: Iterable[type[msgspec.Struct]]) -> bytes | None:
    """A message without the optional fields that only hold the empty default of an exporter.

    The status of an account is spelled without capitals and blanks.

    Args:
        raw: a JSON object.
        variants: the events that it may be.

    Returns:
        None if nothing changes, or if the event is not one of the variants.

    """
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        tag = msgspec.json.decode(fields.get("type", b"null"))
    except (ValueError, RecursionError):
        return None
    for variant in variants:
        if variant.__struct_config__.tag == tag:
            absent = {each.encode_name: empty_defaults(each.name) for each in fields_of(variant) if not each.required}
            kept = {name: value for name, value in fields.items() if bytes(value) not in absent.get(name, ())}
            if variant is Account and "status" in kept:
                kept["status"] = _spelled(kept["status"])
            return msgspec.json.encode(kept) if kept != fields else None
    return None


def _spelled(status: msgspec.Raw) -> msgspec.Raw:
    """The status in lower case and without blanks around it; anything but a string as it is."""
    published = msgspec.json.decode(status)
    return msgspec.Raw(msgspec.json.encode(published.strip().lower())) if isinstance(published, str) else status
