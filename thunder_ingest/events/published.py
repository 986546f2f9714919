"""The events that apps publish: JSON, one object a message, its variant in `type`; times are the event's own."""

from typing import Annotated, Any, Final, Literal, get_args

import msgspec
from msgspec import Struct

from infra.ports.topics import MAX_MESSAGE_BYTES as MAX_MESSAGE_BYTES
from thunder_ingest.events.actions import ActionName
from thunder_ingest.events.ids import MAX_ID_BYTES, PublishedId

KindName = Literal["original", "reply", "repost", "quote"]
KINDS: Final[tuple[KindName, ...]] = get_args(KindName)
AccountStatus = Literal["active", "deactivated", "suspended", "deleted"]
ACCOUNT_STATUSES: Final[tuple[AccountStatus, ...]] = get_args(AccountStatus)
ORIGINAL, REPLY, REPOST, QUOTE = range(4)

FIRST_TIME_MS: Final = 10**12
"""2001-09-09: the times of today in seconds are smaller."""
LAST_TIME_MS: Final = 253_402_300_799_999
MAX_TEXT: Final = 25_000
MAX_SEEN_IDS: Final = 10_000
MAX_FEED_SIZE: Final = 200
MAX_LANGS: Final = 20

Time = Annotated[
    int, msgspec.Meta(ge=FIRST_TIME_MS, le=LAST_TIME_MS, description="epoch milliseconds, the event's own time")
]
Duration = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1, description="milliseconds")]
ShortText = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
RequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_BYTES)]


# an event has no reference cycles: the garbage collector can skip it
class _Event(Struct, tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    at: Time


class PostCreated(_Event, tag="post_created"):
    """A post; the same id with a later time is an edit, and restores a deleted post."""

    post_id: PublishedId
    author_id: PublishedId
    kind: KindName = "original"
    text: Annotated[str, msgspec.Meta(max_length=MAX_TEXT)] | None = None
    lang: ShortText | None = None
    conversation_id: PublishedId | None = None
    in_reply_to_post_id: PublishedId | None = None
    in_reply_to_author_id: PublishedId | None = None
    source_post_id: PublishedId | None = None
    source_author_id: PublishedId | None = None
    photos: Annotated[int, msgspec.Meta(ge=0, le=1000)] | None = None
    video_ms: Duration | None = None
    subscriber_only: bool | None = None
    revision: (
        Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1, description="the greatest of the edits with one `at` wins")]
        | None
    ) = None


class PostDeleted(_Event, tag="post_deleted"):
    """The author, or a moderator, deletes a post: `author_id` need not be the author of the post."""

    post_id: PublishedId
    author_id: PublishedId | None = None


class PostLabeled(_Event, tag="post_labeled"):
    """A visibility label (`spam`, `adult`, `violence`, `gore`, …) is put on a post, or removed, by anybody.

    Case, blanks and hyphens of `label` do not matter.
    """

    post_id: PublishedId
    label: ShortText
    author_id: PublishedId | None = None
    removed: bool | None = None


class Impression(_Event, tag="impression"):
    """A post was on the viewer's screen."""

    user_id: PublishedId
    post_id: PublishedId
    author_id: PublishedId
    request_id: RequestId | None = None
    position: Annotated[int, msgspec.Meta(ge=0, le=100_000)] | None = None
    surface: ShortText | None = None


class Engagement(_Event, tag="engagement"):
    """A viewer acted on a post; `undo` takes back the same action."""

    user_id: PublishedId
    post_id: PublishedId
    author_id: PublishedId
    action: ActionName
    dwell_ms: Duration | None = None
    undo: bool | None = None
    request_id: RequestId | None = None
    surface: ShortText | None = None


class _Edge(_Event):
    user_id: PublishedId
    target_id: PublishedId


class Follow(_Edge, tag="follow"):
    """`user_id` follows `target_id`."""


class Unfollow(_Edge, tag="unfollow"):
    """Undoes a follow."""


class Block(_Edge, tag="block"):
    """`user_id` blocks `target_id`: neither sees the other."""


class Unblock(_Edge, tag="unblock"):
    """Undoes a block."""


class Mute(_Edge, tag="mute"):
    """`user_id` mutes `target_id`."""


class Unmute(_Edge, tag="unmute"):
    """Undoes a mute."""


class Subscribe(_Edge, tag="subscribe"):
    """`user_id` may see the subscriber-only posts of `target_id`."""


class Unsubscribe(_Edge, tag="unsubscribe"):
    """Undoes a subscription."""


class _Keyword(_Event):
    user_id: PublishedId
    keyword: ShortText


class MuteKeyword(_Keyword, tag="mute_keyword"):
    """Posts with this word or sequence of words are hidden from `user_id`."""


class UnmuteKeyword(_Keyword, tag="unmute_keyword"):
    """Undoes a muted keyword."""


class Account(_Event, tag="account"):
    """The status of an account: no viewer sees the posts of an account that is not `active`.

    Case and blanks of `status` do not matter.
    """

    user_id: PublishedId
    status: AccountStatus


class FeedRequest(_Event, tag="feed_request"):
    """A viewer wants a feed; the answer appears in Redis under `feed:{user_id}`."""

    request_id: RequestId
    user_id: PublishedId
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_FEED_SIZE)] | None = None
    surface: ShortText | None = None
    in_network_only: bool | None = None
    exclude_videos: bool | None = None
    langs: (
        Annotated[
            list[ShortText],
            msgspec.Meta(
                max_length=MAX_LANGS, description="only posts in these languages, and posts without a known language"
            ),
        ]
        | None
    ) = None
    seen_ids: Annotated[list[PublishedId], msgspec.Meta(max_length=MAX_SEEN_IDS)] | None = None
    check_ids: (
        Annotated[
            list[PublishedId],
            msgspec.Meta(
                max_length=MAX_FEED_SIZE,
                description="answer which of these posts the viewer may still see, without a feed and without a trace",
            ),
        ]
        | None
    ) = None
    explain: bool | None = None
    after: Annotated[RequestId, msgspec.Meta(description="the page that this one continues")] | None = None
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000, description="from `at`")] | None = None


PostEvent = PostCreated | PostDeleted | PostLabeled
EngagementEvent = Impression | Engagement
GraphEvent = Follow | Unfollow | Block | Unblock | Mute | Unmute | Subscribe | Unsubscribe | MuteKeyword | UnmuteKeyword
Event = PostEvent | EngagementEvent | GraphEvent | Account | FeedRequest

INPUT_TYPES: Final[dict[str, Any]] = {
    "posts": PostEvent,
    "engagements": EngagementEvent,
    "social-graph": GraphEvent | Account,
    "feed-requests": FeedRequest,
}
"""The input topics, which apps write, and the events of each."""
