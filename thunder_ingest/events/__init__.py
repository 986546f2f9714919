"""Every topic's schema and codec: the one place where the types that cross a boundary are defined.

What apps publish is JSON, one object a message, its variant in `type`; unknown fields are ignored, so that producers
can move first. What the flows derive is MessagePack. All times are epoch milliseconds and the event's own.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, get_args

import msgspec
import xxhash
from msgspec import Struct

from infra.ports.errors import UsageError
from thunder_ingest.events.ids import MAX_ID_BYTES, PublishedId, id64

ActionName = Literal[
    "favorite",
    "reply",
    "repost",
    "photo_expand",
    "click",
    "profile_click",
    "vqv",
    "share",
    "share_via_dm",
    "share_via_copy_link",
    "dwell",
    "quote",
    "quoted_click",
    "follow_author",
    "not_interested",
    "block_author",
    "mute_author",
    "report",
    "dwell_time",
]
ACTIONS: Final[tuple[ActionName, ...]] = get_args(ActionName)
"""The 19 actions in the published order (names are the API); the last is continuous, in milliseconds of dwell."""
ACTION_INDEX: Final[dict[ActionName, int]] = {name: index for index, name in enumerate(ACTIONS)}
NEGATIVE_ACTIONS: Final[tuple[ActionName, ...]] = ("not_interested", "block_author", "mute_author", "report")
IMPRESSION: Final = len(ACTIONS)
"""The code of an impression where actions are stored as small integers."""

KindName = Literal["original", "reply", "repost", "quote"]
KINDS: Final[tuple[KindName, ...]] = get_args(KindName)
ORIGINAL, REPLY, REPOST, QUOTE = range(4)

LAST_TIME_MS: Final = 253_402_300_799_999
MAX_TEXT: Final = 25_000
MAX_SEEN_IDS: Final = 10_000
MAX_FEED_SIZE: Final = 200
MAX_LANGS: Final = 20
MAX_MESSAGE_BYTES: Final = 256 * 1024

Time = Annotated[int, msgspec.Meta(ge=1, le=LAST_TIME_MS, description="epoch milliseconds, the event's own time")]
Duration = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1, description="milliseconds")]
ShortText = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
RequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_BYTES)]


class Refused(UsageError, ValueError):
    """A message that cannot be used; the text says why, for the one who published it."""


# --- what apps publish (JSON) ---------------------------------------------------------------------------------------


# an event holds no cycles: the garbage collector need not walk it
class _Event(Struct, tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    at: Time


class PostCreated(_Event, tag="post_created"):
    """A post; published again with the same id and a later time it is an edit, after a deletion it restores."""

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


class PostDeleted(_Event, tag="post_deleted"):
    """The author, or a moderator, takes a post away."""

    post_id: PublishedId
    author_id: PublishedId


class PostLabeled(_Event, tag="post_labeled"):
    """A visibility label (`spam`, `adult`, `violence`, `gore`, …) is put on a post, or removed again."""

    post_id: PublishedId
    author_id: PublishedId
    label: ShortText
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
    """A viewer acted on a post; `undo` takes the same action back."""

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
                max_length=MAX_LANGS, description="only posts in these, and those whose language nobody knows"
            ),
        ]
        | None
    ) = None
    seen_ids: Annotated[list[PublishedId], msgspec.Meta(max_length=MAX_SEEN_IDS)] | None = None
    explain: bool | None = None
    after: Annotated[RequestId, msgspec.Meta(description="the page that this one continues")] | None = None
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=3_600_000, description="from `at`")] | None = None


PostEvent = PostCreated | PostDeleted | PostLabeled
EngagementEvent = Impression | Engagement
GraphEvent = Follow | Unfollow | Block | Unblock | Mute | Unmute | Subscribe | Unsubscribe | MuteKeyword | UnmuteKeyword
Event = PostEvent | EngagementEvent | GraphEvent | FeedRequest

INPUT_TYPES: Final[dict[str, Any]] = {
    "posts": PostEvent,
    "engagements": EngagementEvent,
    "social-graph": GraphEvent,
    "feed-requests": FeedRequest,
}
"""The topics that apps write, and what may stand in them."""

_SURFACES: Final = 15

_DECODERS = {topic: msgspec.json.Decoder(type_).decode for topic, type_ in INPUT_TYPES.items()}
_ANY_INPUT = msgspec.json.Decoder(Event)
_JSON = msgspec.json.Encoder()


def decode(topic: str, raw: bytes | None) -> Any:
    """Decode and validate one message of an input topic.

    Returns:
        an event of `INPUT_TYPES[topic]`.

    Raises:
        Refused: with the reason, where the message cannot be used.

    """
    if raw is None:
        raise Refused("an empty message (null value)")
    if len(raw) > MAX_MESSAGE_BYTES:
        raise Refused(f"a message of {len(raw):,} bytes; at most {MAX_MESSAGE_BYTES:,} are allowed")
    try:
        event = _DECODERS[topic](raw)
        _CHECKS[type(event)](event)
    except Refused:
        raise
    except (ValueError, RecursionError) as error:  # what msgspec raises is a ValueError
        raise Refused(str(error)) from None
    return event


def decode_any(raw: bytes | str) -> Event:
    """Decode an event of whatever input topic; raises `Refused` like `decode`."""
    try:
        event: Event = _ANY_INPUT.decode(raw)
        _CHECKS[type(event)](event)
    except Refused:
        raise
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Refused(str(error)) from None
    return event


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
    """The published id that keys an event in its topic: the author's for posts, else the user's."""
    return event.author_id if isinstance(event, PostEvent) else event.user_id


@lru_cache(maxsize=1024)
def surface_code(name: str | None) -> int:
    """The code of a surface, 1 … 15 by hash; 0 where none is named."""
    return 0 if name is None else 1 + xxhash.xxh32_intdigest(name.encode()) % _SURFACES


# --- what the types alone cannot say: a check for each type, run for each message ------------------------------------


# only a string can be a wrong id, an integer's bounds are in its type; written out, since these run for each message


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


def _check_edge(event: _Edge) -> None:
    if id64(event.user_id) == id64(event.target_id):
        raise Refused(f"a user cannot {event.__struct_config__.tag} themselves - at `$.target_id`")


def _check_keyword(event: _Keyword) -> None:
    id64(event.user_id)


def _check_request(event: FeedRequest) -> None:
    for published in (event.user_id, *(event.seen_ids or ())):
        id64(published)


def _check_ids(*published: PublishedId | None) -> None:
    for each in published:
        if each is not None:
            id64(each)


_CHECKS: Final[dict[type, Callable[[Any], None]]] = {
    PostCreated: _check_created,
    PostDeleted: _check_post,
    PostLabeled: _check_post,
    Impression: _check_viewed,
    Engagement: _check_engagement,
    **dict.fromkeys((Follow, Unfollow, Block, Unblock, Mute, Unmute, Subscribe, Unsubscribe), _check_edge),
    **dict.fromkeys((MuteKeyword, UnmuteKeyword), _check_keyword),
    FeedRequest: _check_request,
}


# --- what the flows derive (MessagePack) ----------------------------------------------------------------------------


class Post(Struct, array_like=True, kw_only=True):
    """A post as served: the record of `thunder-posts`, keyed by post id, and the unit that `posts.merge` joins.

    Ids are int64, 0 where there is none. `author_form`, `post_form` keep the published form of string ids.
    `at` is the time of the newest content, 0 while nothing but labels or a deletion is known; `created_at` is the
    earliest.
    `labels` maps a label to the time it was put on, negative where it was taken off at that time.
    `tokens` are the hashed text tokens (`text.tokenize`), uint32 little-endian.
    """

    post_id: int
    author_id: int
    created_at: int = 0
    at: int = 0
    deleted_at: int = 0
    kind: int = ORIGINAL
    text: str = ""
    lang: str = ""
    conversation_id: int = 0
    in_reply_to_post_id: int = 0
    in_reply_to_author_id: int = 0
    source_post_id: int = 0
    source_author_id: int = 0
    photos: int = 0
    video_ms: int = 0
    subscriber_only: bool = False
    labels: dict[str, int] = {}
    tokens: bytes = b""
    post_form: str | None = None
    author_form: str | None = None

    @property
    def is_live(self) -> bool:
        """Whether there is content newer than any deletion."""
        return self.at > self.deleted_at


class PostEmbedding(Struct, array_like=True, kw_only=True):
    """The record of `post-embeddings`, keyed by post id: a unit vector, float32 little-endian."""

    post_id: int
    model_version: str
    vector: bytes


class PostCounts(Struct, array_like=True, kw_only=True):
    """The record of `post-counts`, keyed by post id: running totals, one for each of ACTIONS, then impressions."""

    post_id: int
    at: int
    totals: list[int]


class DeadLetter(Struct, array_like=True, kw_only=True):
    """The record of `dead-letters`, keyed by the source topic: a refused message, whole, and why it was refused."""

    topic: str
    partition: int
    offset: int
    at: int
    reason: str
    key: bytes | None = None
    value: bytes | None = None


FeedStatus = Literal["ok", "degraded", "empty", "expired", "failed"]


class FeedServed(Struct, array_like=True, kw_only=True):
    """The record of `feeds-served`, keyed by user: what one request was answered with, in order."""

    request_id: str
    user_id: int
    user_form: str
    at: int
    served_at: int
    status: FeedStatus
    model_version: str
    parameters: str
    surface: str = ""
    post_ids: list[int] = []
    author_ids: list[int] = []
    scores: list[float] = []
    experiments: dict[str, str] = {}
    degradations: list[str] = []


class ModelPointer(Struct, array_like=True, kw_only=True):
    """The record of `models`, keyed by model name: which checkpoint is current."""

    name: str
    version: str
    location: str
    at: int


def key_of_id(post_id: int) -> bytes:
    """The Kafka key of a derived record: the int64 in decimal."""
    return b"%d" % post_id


def pack(record: Struct) -> bytes:
    """A derived record as MessagePack."""
    return msgspec.msgpack.encode(record)


unpack_post = msgspec.msgpack.Decoder(Post).decode
unpack_embedding = msgspec.msgpack.Decoder(PostEmbedding).decode
unpack_counts = msgspec.msgpack.Decoder(PostCounts).decode
unpack_dead_letter = msgspec.msgpack.Decoder(DeadLetter).decode
unpack_feed_served = msgspec.msgpack.Decoder(FeedServed).decode
unpack_pointer = msgspec.msgpack.Decoder(ModelPointer).decode
