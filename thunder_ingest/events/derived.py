"""The records that flows and workers write: MessagePack, with their codec."""

from typing import Literal

import msgspec
from msgspec import Struct

from thunder_ingest.events.published import ORIGINAL, AccountStatus


class Post(Struct, array_like=True, kw_only=True):
    """The record of `thunder-posts`, keyed by post id: a post as served, and the unit that `posts.merge` joins.

    Ids are int64, 0 where there is none. `author_form`, `post_form` keep the published form of string ids.
    `at` is the time of the newest content, 0 if only labels or a deletion are known; `created_at` is that of the
    earliest. The author is that of the creation, 0 before it. `revision` decides between contents of one `at`.
    `labels` maps a label to the time it was put on, negative if it was removed at that time.
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
    revision: int = 0

    @property
    def is_live(self) -> bool:
        """True if there is content newer than any deletion."""
        return self.at > self.deleted_at


class AccountState(Struct, array_like=True, kw_only=True):
    """The record of `accounts`, keyed by user id: the status of an account since `at`."""

    user_id: int
    status: AccountStatus
    at: int


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
    """The record of `dead-letters`, keyed by the source topic: a refused message with the reason.

    `key_bytes` and `value_bytes` are the original sizes of a key and a value that were cut, else None.
    """

    topic: str
    partition: int
    offset: int
    at: int
    reason: str
    key: bytes | None = None
    value: bytes | None = None
    key_bytes: int | None = None
    value_bytes: int | None = None

    @property
    def is_cut(self) -> bool:
        """True if a part of the message is missing."""
        return self.key_bytes is not None or self.value_bytes is not None


FeedStatus = Literal["ok", "degraded", "empty", "expired", "failed"]

RepeatName = Literal["served", "seen"]
"""Why an item of a feed is no new one: an earlier feed had it, or the viewer has seen it."""


class FeedServed(Struct, array_like=True, kw_only=True):
    """The record of `feeds-served`, keyed by user: the answer to one request, posts in the served order.

    `first_page_at` is the time under which the first page's posts were served; 0 for a page whose first is unknown.
    """

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
    first_page_at: int = 0


class ModelPointer(Struct, array_like=True, kw_only=True):
    """The record of `models`, keyed by model name: the current checkpoint."""

    name: str
    version: str
    location: str
    at: int


def key_of_id(post_id: int) -> bytes:
    """The Kafka key of a derived record: the int64 in decimal."""
    return b"%d" % post_id


def pack(record: Struct) -> bytes:
    """A derived record as MessagePack; a post without a revision has the form of earlier versions."""
    if type(record) is Post and not record.revision:
        return msgspec.msgpack.encode(msgspec.structs.astuple(record)[:-1])
    return msgspec.msgpack.encode(record)


unpack_post = msgspec.msgpack.Decoder(Post).decode
unpack_embedding = msgspec.msgpack.Decoder(PostEmbedding).decode
unpack_account = msgspec.msgpack.Decoder(AccountState).decode
unpack_counts = msgspec.msgpack.Decoder(PostCounts).decode
unpack_dead_letter = msgspec.msgpack.Decoder(DeadLetter).decode
unpack_feed_served = msgspec.msgpack.Decoder(FeedServed).decode
unpack_pointer = msgspec.msgpack.Decoder(ModelPointer).decode
