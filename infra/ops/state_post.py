"""`foryou state post`: what the system knows of a post, as it stands in the compacted topics.

Which partition has a key cannot be known from outside: the clients that write may partition differently. So every
partition is read, and the newest record of the key counts.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec
from confluent_kafka import Message
from rich.console import Console, Group
from rich.table import Table

from infra.ports.errors import StateUnreadable
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from infra.terminal.progress import Report
from infra.terminal.tables import counts_table, moment, plain
from thunder_ingest.events import ACTIONS, KINDS, Post, key_of_id, unpack_counts, unpack_embedding, unpack_post
from thunder_ingest.events.ids import id64, published_form
from thunder_ingest.posts.table import STATE_HEADER

TOPICS = ("thunder-posts", "post-counts", "post-embeddings")
VECTOR_BYTES = 4  # a dimension
T = TypeVar("T")

State = Literal["live", "deleted", "not created", "forgotten", "not there"]
EXPLAINED: dict[State, str] = {
    "live": "a candidate for feeds while it is young enough",
    "deleted": "a tombstone; the topic remembers when it was deleted",
    "not created": "labels are known, a post_created is not",
    "forgotten": "a tombstone without a state: the post became too old",
    "not there": "thunder-posts has no record of it: never published, refused, or forgotten long ago",
}


class Place(msgspec.Struct):
    """Where a record stands, and when it was written."""

    partition: int
    offset: int
    at: int


class Content(msgspec.Struct):
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
    """The time a label was put on; negative: taken off at that time."""
    tokens: int
    """How many."""


class Counts(msgspec.Struct):
    """Running totals by action, and of impressions."""

    at: int
    totals: dict[str, int]
    record: Place


class Embedding(msgspec.Struct):
    """Which model made the vector."""

    model_version: str
    dimensions: int
    record: Place


class PostDocument(msgspec.Struct):
    """What is known of a post."""

    post_id: str
    number: str
    state: State
    content: Content | None
    record: Place | None
    counts: Counts | None
    embedding: Embedding | None


def read(settings: Settings, post: str, err: Console) -> PostDocument | None:
    """What is known of a post, None where nothing is.

    Args:
        settings: where Kafka is.
        post: any published form of the id.
        err: takes the progress.

    Raises:
        BrokerUnreachable, TopicMissing: like `scan`.
        StateUnreadable: where a record cannot be read.

    """
    key, last = key_of_id(id64(post)), dict[tuple[str | None, int | None], Message]()
    with Report(err) as report, report.step(f"{', '.join(TOPICS)} are read") as advance:
        for messages in scan(settings, TOPICS, advance):
            last |= {(each.topic(), each.partition()): each for each in messages if _key(each) == key}
    # within a partition the later is the newer, between partitions only the time can tell
    newest = {each.topic() or "": each for each in sorted(last.values(), key=_written_at)}
    return _document(published_form(post), newest) if newest else None


def _key(message: Message) -> bytes | None:
    key = message.key()
    return key.encode() if isinstance(key, str) else key


def _written_at(message: Message) -> int:
    return message.timestamp()[1]


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
    raw = None if message is None else packed(message)  # a message without a value is false, hence `is None`
    if message is None or raw is None:
        return None
    try:
        return unpack(raw)
    except msgspec.DecodeError as error:
        where = f"{message.topic()}[{message.partition()}] at offset {message.offset()}"
        raise StateUnreadable(f"the record in {where} cannot be read: {error}") from error


def _state(message: Message | None, post: Post | None) -> State:
    if message is None:
        return "not there"
    if post is None:
        return "forgotten"
    if post.is_live:
        return "live"
    return "deleted" if post.deleted_at else "not created"


def _place(message: Message) -> Place:
    return Place(message.partition() or 0, message.offset() or 0, _written_at(message))


def _content(post: Post) -> Content:
    ids = ("conversation_id", "in_reply_to_post_id", "in_reply_to_author_id", "source_post_id", "source_author_id")
    return Content(
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


def _counts(message: Message | None) -> Counts | None:
    counts = _unpacked(message, unpack_counts)
    if message is None or counts is None:
        return None
    names = (*ACTIONS, "impressions")
    return Counts(counts.at, dict(zip(names, counts.totals, strict=False)), _place(message))


def _embedding(message: Message | None) -> Embedding | None:
    embedding = _unpacked(message, unpack_embedding)
    if message is None or embedding is None:
        return None
    return Embedding(embedding.model_version, len(embedding.vector) // VECTOR_BYTES, _place(message))


def view(document: PostDocument) -> Group:
    """What is known of a post, on a terminal."""
    number = "" if document.number == document.post_id else f" ({document.number})"
    facts: dict[str, int | str] = {"state": f"{document.state}: {EXPLAINED[document.state]}"}
    if document.content:
        facts |= _facts(document.content)
    if document.record:
        facts["record"] = _where(document.record)
    facts |= _derived(document)
    table = Table(title=f"post {plain(document.post_id)}{number}", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, plain(str(value)))
    totals = {name: total for name, total in document.counts.totals.items() if total} if document.counts else {}
    return Group(table, counts_table("counts", totals)) if totals else Group(table)


def _facts(content: Content) -> dict[str, int | str]:
    """The fields that say something, times as readers like them."""
    fields = {name: getattr(content, name) for name in Content.__struct_fields__}
    told = {name: value for name, value in fields.items() if value not in (0, "", "0", False) and value != {}}
    told |= {name: moment(fields[name]) for name in ("created_at", "at", "deleted_at") if fields[name]}
    if content.labels:
        told["labels"] = ", ".join(f"{name} {_put(at)} {moment(abs(at))}" for name, at in content.labels.items())
    return told


def _put(at: int) -> str:
    return "since" if at > 0 else "taken off"


def _derived(document: PostDocument) -> dict[str, int | str]:
    counts, vector = document.counts, document.embedding
    return {
        "counts": f"{_where(counts.record)}; newest engagement {moment(counts.at)}" if counts else "none",
        "vector": f"model {vector.model_version}, {vector.dimensions} dimensions, {_where(vector.record)}"
        if vector
        else "none",
    }


def _where(place: Place) -> str:
    return f"partition {place.partition}, offset {place.offset}, written {moment(place.at)}"
