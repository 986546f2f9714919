"""The checks of an event that types cannot express: string ids and fields that depend on each other."""

from collections.abc import Callable
from typing import Any, Final

from thunder_ingest.events.ids import PublishedId, id64
from thunder_ingest.events.published import (
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

# only a string can be an invalid id: the type has the bounds of an integer; written out, as it runs for each message


def _check_engagement(event: Engagement) -> None:
    if type(event.user_id) is str or type(event.post_id) is str or type(event.author_id) is str:
        _check_ids(event.user_id, event.post_id, event.author_id)
    if event.action == "dwell_time" and event.dwell_ms is None and not event.undo:
        raise Refused("a dwell_time needs `dwell_ms` - at `$.dwell_ms`")


def _check_viewed(event: Impression) -> None:
    if type(event.user_id) is str or type(event.post_id) is str or type(event.author_id) is str:
        _check_ids(event.user_id, event.post_id, event.author_id)


def _check_post(event: PostDeleted | PostLabeled) -> None:
    _check_ids(event.post_id, event.author_id)


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
    if event.kind == "original":
        return
    if event.kind in ("repost", "quote") and event.source_post_id is None:
        raise Refused(f"a {event.kind} needs `source_post_id` - at `$.source_post_id`")
    if event.kind == "reply" and event.in_reply_to_post_id is None:
        raise Refused("a reply needs `in_reply_to_post_id` - at `$.in_reply_to_post_id`")


def _check_edge(event: Follow) -> None:
    if id64(event.user_id) == id64(event.target_id):
        raise Refused(f"a user cannot {event.__struct_config__.tag} themselves - at `$.target_id`")


def _check_keyword(event: MuteKeyword) -> None:
    id64(event.user_id)


def _check_request(event: FeedRequest) -> None:
    for published in (event.user_id, *(event.seen_ids or ())):
        id64(published)


def _check_ids(*published: PublishedId | None) -> None:
    for each in published:
        if each is not None:
            id64(each)


CHECKS: Final[dict[type, Callable[[Any], None]]] = {
    PostCreated: _check_created,
    PostDeleted: _check_post,
    PostLabeled: _check_post,
    Impression: _check_viewed,
    Engagement: _check_engagement,
    **dict.fromkeys((Follow, Unfollow, Block, Unblock, Mute, Unmute, Subscribe, Unsubscribe), _check_edge),
    **dict.fromkeys((MuteKeyword, UnmuteKeyword), _check_keyword),
    FeedRequest: _check_request,
}
"""For each event a check of its ids and dependent fields; it raises `Refused`, or ValueError for an invalid id."""
