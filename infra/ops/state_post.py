"""Read the stored state of a post from the compacted topics.

Clients that write may partition differently, so a key may be in any partition. The command reads every partition and
takes the newest record of the key.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec
from confluent_kafka import Message
from rich.console import Console

from infra.ports.errors import StateUnreadable
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from infra.terminal.progress import ProgressReport
from thunder_ingest.events import ACTIONS, KINDS, Post, key_of_id, unpack_counts, unpack_embedding, unpack_post
from thunder_ingest.events.ids import id64, published_form
from thunder_ingest.posts.table import STATE_HEADER

TOPICS = ("thunder-posts", "post-counts", "post-embeddings")
VECTOR_BYTES = 4  # a dimension
T = TypeVar("T")

PostState = Literal["live", "deleted", "not created", "forgotten", "not there"]
EXPLAINED: dict[PostState, str] = {
    "live": "a candidate for feeds until the maximum age",
    "deleted": "a tombstone with the time of the deletion",
    "not created": "labels arrived, but no post_created",
    "forgotten": "a tombstone without a state: the post exceeded the maximum age",
    "not there": "no record in thunder-posts: never published, refused, or forgotten",
}


class RecordLocation(msgspec.Struct):
    """The partition, the offset and the time of a record."""

    partition: int
    offset: int
    at: int


class PostContent(msgspec.Struct):
    """A post as served, its kind by name; ids are int64 as text, "0" for none."""

    author_id: str
    created_at: int
    at: int
    deleted_at: int
    kind: str
    text: str
    lang: str
    conversation_id: str
    in_reply_to_post_id: str
    in_reply_to_author_id: str
    source_post_id: str
    source_author_id: str
    photos: int
    video_ms: int
    subscriber_only: bool
    labels: dict[str, int]
    """The time of each label in epoch ms; negative if the label was removed at that time."""
    tokens: int
    """Number of tokens."""


class PostCountsRecord(msgspec.Struct):
    """Running totals by action, and of impressions."""

    at: int
    totals: dict[str, int]
    record: RecordLocation


class VectorRecord(msgspec.Struct):
    """The model and the size of the stored vector."""

    model_version: str
    dimensions: int
    record: RecordLocation


class PostDocument(msgspec.Struct):
    """The stored state of a post."""

    post_id: str
    number: str
    state: PostState
    content: PostContent | None
    record: RecordLocation | None
    counts: PostCountsRecord | None
    embedding: VectorRecord | None


def read(settings: Settings, post: str, err: Console) -> PostDocument | None:
    """The stored state of a post; None if no topic has a record of it.

    Args:
        settings: address of Kafka.
        post: any published form of the id.
        err: console for the progress.

    Raises:
        BrokerUnreachable, TopicMissing: as `scan`.
        StateUnreadable: a record cannot be decoded.

    """
    key, last = key_of_id(id64(post)), dict[tuple[str | None, int | None], Message]()
    with ProgressReport(err) as report, report.step(f"read {', '.join(TOPICS)}") as advance:
        for messages in scan(settings, TOPICS, advance):
            last |= {(each.topic(), each.partition()): each for each in messages if _key(each) == key}
    # within a partition the order decides, between partitions the time
    newest = {each.topic() or "": each for each in sorted(last.values(), key=_written_at)}
    return _document(published_form(post), newest) if newest else None


def _key(message: Message) -> bytes | None:
    key = message.key()
    return key.encode() if isinstance(key, str) else key


def _written_at(message: Message) -> int:
    return int(message.timestamp()[1])


def _document(form: str, newest: dict[str, Message]) -> PostDocument:
    of_post, of_counts, of_vector = (newest.get(topic) for topic in TOPICS)
    post = _unpacked(of_post, unpack_post, _packed_post)
    return PostDocument(
        post_id=post.post_form or str(post.post_id) if post else form,
        number=str(id64(form)),
        state=_state(of_post, post),
        content=_content(post) if post else None,
        record=None if of_post is None else _place(of_post),
        counts=_counts(of_counts),
        embedding=_embedding(of_vector),
    )


def _value(message: Message) -> bytes | None:
    value = message.value()
    return value.encode() if isinstance(value, str) else value


def _packed_post(message: Message) -> bytes | None:
    """The post in a record's value, or in a tombstone's header."""
    headers: Any = message.headers() or []
    return _value(message) or dict(headers).get(STATE_HEADER)


def _unpacked(
    message: Message | None, unpack: Callable[[bytes], T], packed: Callable[[Message], bytes | None] = _value
) -> T | None:
    raw = None if message is None else packed(message)  # `is None`: a message without a value is false
    if message is None or raw is None:
        return None
    try:
        return unpack(raw)
    except msgspec.DecodeError as error:
        where = f"{message.topic()}[{message.partition()}] at offset {message.offset()}"
        raise StateUnreadable(f"the record in {where} cannot be read: {error}") from error


def _state(message: Message | None, post: Post | None) -> PostState:
    if message is None:
        return "not there"
    if post is None:
        return "forgotten"
    if post.is_live:
        return "live"
    return "deleted" if post.deleted_at else "not created"


def _place(message: Message) -> RecordLocation:
    return RecordLocation(message.partition() or 0, message.offset() or 0, _written_at(message))


def _content(post: Post) -> PostContent:
    ids = ("conversation_id", "in_reply_to_post_id", "in_reply_to_author_id", "source_post_id", "source_author_id")
    return PostContent(
        author_id=post.author_form or str(post.author_id),
        created_at=post.created_at,
        at=post.at,
        deleted_at=post.deleted_at,
        kind=KINDS[post.kind],
        text=post.text,
        lang=post.lang,
        **{name: str(getattr(post, name)) for name in ids},
        photos=post.photos,
        video_ms=post.video_ms,
        subscriber_only=post.subscriber_only,
        labels=post.labels,
        tokens=len(post.tokens) // 4,
    )


def _counts(message: Message | None) -> PostCountsRecord | None:
    counts = _unpacked(message, unpack_counts)
    if message is None or counts is None:
        return None
    names = (*ACTIONS, "impressions")
    return PostCountsRecord(counts.at, dict(zip(names, counts.totals, strict=False)), _place(message))


def _embedding(message: Message | None) -> VectorRecord | None:
    embedding = _unpacked(message, unpack_embedding)
    if message is None or embedding is None:
        return None
    return VectorRecord(embedding.model_version, len(embedding.vector) // VECTOR_BYTES, _place(message))
