"""The table of posts: the state of the posts flow, joined from post events in any order, any number of times.

Each event becomes a `Post` with the facts of that event alone; `join` merges two of them. Content, deletion and each
label are last-writer-wins registers by event time (a state-based CRDT: Shapiro, Preguiça, Baquero and Zawirski, 2011).
At equal times the safer value wins: deletion over content, a set label over a removed one. Between contents of one time
the greater revision wins, then the more restricted, then the shorter text: an edit mostly takes something away. Content
older than a deletion is dropped, since only newer content can restore the post.

Post ids are unique, so the author of a post is that of its creation. A deletion or a label counts from any publisher,
also before the creation.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import reduce
from typing import Any, Final, NamedTuple

import msgspec

from thunder_ingest.events import (
    KINDS,
    Post,
    PostCreated,
    PostDeleted,
    PostEvent,
    Refused,
    key_of_id,
    pack,
    unpack_post,
)
from thunder_ingest.events.ids import id64, string_form
from thunder_ingest.events.labels import label_name
from thunder_ingest.events.text import packed_tokens, packed_tokens_of

MAX_LABELS: Final = 64
"""Labels of one post at most, removed ones included."""

STATE_HEADER: Final = "state"
"""The header of a tombstone with the state of a post that is not live."""

_KIND_INDEX: Final = {kind: index for index, kind in enumerate(KINDS)}
_encode = msgspec.msgpack.Encoder().encode

_CONTENT: Final = (
    "at",
    "kind",
    "text",
    "lang",
    "conversation_id",
    "in_reply_to_post_id",
    "in_reply_to_author_id",
    "source_post_id",
    "source_author_id",
    "photos",
    "video_ms",
    "subscriber_only",
    "tokens",
    "revision",
)
_NO_CONTENT: Final = {
    name: default
    for name, default in zip(Post.__struct_fields__[2:], Post.__struct_defaults__, strict=True)
    if name in _CONTENT
}

Headers = list[tuple[str, bytes]]
Change = tuple[bytes, bytes | None, Headers | None]
"""A record of `thunder-posts`: key, value, headers."""


class Changes(NamedTuple):
    """The changes by a batch of events: a record for each changed post, and refusals by index of the event."""

    records: list[Change]
    refused: dict[int, Refused]


def from_event(event: PostEvent) -> Post:
    """A post with the facts of one event."""
    if isinstance(event, PostCreated):
        return _created(event)
    post = Post(post_id=id64(event.post_id), author_id=0, post_form=string_form(event.post_id))
    if isinstance(event, PostDeleted):
        post.deleted_at = event.at
    else:
        post.labels = {label_name(event.label): -event.at if event.removed else event.at}
    return post


def _created(event: PostCreated) -> Post:
    return unpack_post(_packed_creation(event, packed_tokens(event.text or "")))


def _packed_creation(event: PostCreated, tokens: bytes) -> bytes:
    """The packed record of a new post.

    It is encoded field by field, in the order of `Post`, at a third of the cost of building a `Post` first.
    """
    post_id, author_id, at = event.post_id, event.author_id, event.at
    fields: tuple[Any, ...] = (
        post_id if type(post_id) is int else id64(post_id),
        author_id if type(author_id) is int else id64(author_id),
        at,  # created_at
        at,
        0,  # deleted_at
        _KIND_INDEX[event.kind],
        event.text or "",
        event.lang or "",
        0 if event.conversation_id is None else id64(event.conversation_id),
        0 if event.in_reply_to_post_id is None else id64(event.in_reply_to_post_id),
        0 if event.in_reply_to_author_id is None else id64(event.in_reply_to_author_id),
        0 if event.source_post_id is None else id64(event.source_post_id),
        0 if event.source_author_id is None else id64(event.source_author_id),
        event.photos or 0,
        event.video_ms or 0,
        event.subscriber_only is True,
        {},  # labels
        tokens,
        None if type(post_id) is int else string_form(post_id),
        None if type(author_id) is int else string_form(author_id),
    )
    return _encode((*fields, event.revision) if event.revision else fields)


def join(a: Post, b: Post) -> Post:
    """Merge two records of one post: commutative, associative, idempotent.

    The earliest creation time wins, so an edit or a restoration makes no post younger.

    Raises:
        Refused: for records with different posts, authors of a creation, or published forms of an id.

    """
    _check_identity(a, b)
    created = [at for at in (a.created_at, b.created_at) if at]
    author = max(a, b, key=lambda post: (post.created_at > 0, post.author_id, post.author_form or ""))
    joined = msgspec.structs.replace(
        _newer_content(a, b),
        author_id=author.author_id,
        author_form=author.author_form,
        created_at=min(created, default=0),
        deleted_at=max(a.deleted_at, b.deleted_at),
        labels=joined_labels(a.labels, b.labels),
    )
    return joined if joined.is_live or not joined.at else msgspec.structs.replace(joined, **_NO_CONTENT)


def _check_identity(known: Post, post: Post) -> None:
    if known.post_id != post.post_id:
        raise Refused(f"posts {known.post_id} and {post.post_id} are not one")
    if known.post_form != post.post_form:
        raise Refused(f"another post id, {_form(known.post_id, known.post_form)}, already stands for the same number")
    is_created = known.created_at > 0 and post.created_at > 0
    if is_created and (known.author_id, known.author_form) != (post.author_id, post.author_form):
        raise Refused(f"the author of this post is {_form(known.author_id, known.author_form)}")


def _form(number: int, string: str | None) -> str:
    return str(number) if string is None else repr(string)


def _newer_content(a: Post, b: Post) -> Post:
    if a.at != b.at:
        return a if a.at > b.at else b
    return max(a, b, key=_precedence) if a != b else a


def _precedence(post: Post) -> tuple[int, bool, int, bytes]:
    """The order of contents of one time."""
    content = msgspec.msgpack.encode([getattr(post, name) for name in _CONTENT])
    return post.revision, post.subscriber_only, -len(post.text), content


def joined_labels(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    """The newest value of each label, in order of the names, so that equal posts have equal bytes."""
    if not b:
        return a
    labels = {name: max(a.get(name, 0), b.get(name, 0), key=_label_order) for name in a.keys() | b.keys()}
    return dict(sorted(labels.items()))


def _label_order(at: int) -> tuple[int, int]:
    return abs(at), at


def newest_at(post: Post) -> int:
    """The newest event time in a post."""
    return max(post.at, post.created_at, post.deleted_at, *map(abs, post.labels.values()))


def changelog(post: Post) -> Change:
    """A post's record in `thunder-posts`: key, value, headers.

    A post that is not live is a tombstone. Its header keeps the state for a restarting flow: deletion time, author and
    labels.
    """
    if post.is_live:
        return key_of_id(post.post_id), pack(post), None
    return key_of_id(post.post_id), None, [(STATE_HEADER, pack(post))]


def state_of(value: bytes | None, headers: Headers | None) -> Post | None:
    """The state of a post in a record of the changelog; None for a tombstone without a state."""
    packed = value if value is not None else dict(headers or ()).get(STATE_HEADER)
    if packed is None:
        return None
    post = unpack_post(packed)
    if post.labels:  # earlier versions kept the published names
        named = ({label_name(name): at} for name, at in post.labels.items())
        post.labels = reduce(joined_labels, named)
    return post


class PostTable:
    """All posts that are younger than `max_age_ms`, deleted ones included: the state of the posts flow.

    Order and duplicates of events make no difference, as long as no event is older than that age. The table holds
    packed records, as in the changelog: they take a fraction of the memory, and the garbage collector skips them.
    """

    def __init__(self, max_age_ms: int) -> None:
        self._max_age_ms = max_age_ms
        self._records: dict[int, bytes] = {}
        self._by_age: defaultdict[int, list[int]] = defaultdict(
            list
        )  # post ids by second of `newest_at`, or an earlier second

    def __len__(self) -> int:
        return len(self._records)

    def restore(self, value: bytes | None, headers: Headers | None) -> None:
        """Join a record of the changelog; records may come in any order.

        Raises:
            Refused: for a record that contradicts an earlier one.

        """
        post = state_of(value, headers)
        if post is not None:
            self._join(post)

    def apply(self, event: PostEvent, now_ms: int) -> Post | None:
        """Join an event; returns the changed post, or None for no change or a late event.

        Raises:
            Refused: for a creation by another author, another form of an id, or too many labels.

        """
        changes = self.changes([event], now_ms)
        for reason in changes.refused.values():
            raise reason
        (post,) = [state_of(value, headers) for _, value, headers in changes.records] or [None]
        return post

    def changes(self, events: Sequence[PostEvent], now_ms: int) -> Changes:
        """Join events in order, like `apply`; several changes of one post make one record."""
        oldest_ms = now_ms - self._max_age_ms
        changed: dict[int, Change] = {}
        refused: dict[int, Refused] = {}
        texts = [event.text or "" if type(event) is PostCreated else "" for event in events]
        for place, (event, tokens) in enumerate(zip(events, packed_tokens_of(texts), strict=True)):
            published = event.post_id
            post_id = published if type(published) is int else id64(published)
            if post_id not in self._records:
                if event.at < oldest_ms:
                    continue
                if type(event) is PostCreated:  # the common case: nothing to join
                    self._records[post_id] = packed = _packed_creation(event, tokens)
                    self._by_age[event.at // 1_000].append(post_id)
                    changed[post_id] = b"%d" % post_id, packed, None
                    continue
            try:
                joined = self._join(from_event(event))
            except Refused as reason:
                refused[place] = reason
            else:
                if joined is not None:
                    changed[post_id] = changelog(joined)
        return Changes(list(changed.values()), refused)

    def expire(self, now_ms: int) -> list[int]:
        """Drop the posts without an event for `max_age_ms`; returns the ids of the live ones.

        The caller writes a tombstone for each of them. The others are tombstones already. A second tombstone would be
        wrong: another process may have received the creation of the post after this process started.
        """
        oldest_ms = now_ms - self._max_age_ms
        expired = []
        for second in [second for second in self._by_age if second <= oldest_ms // 1_000]:
            for post_id in self._by_age.pop(second):
                packed = self._records.get(post_id)
                if packed is None:
                    continue
                post = unpack_post(packed)
                if (at := newest_at(post)) >= oldest_ms:
                    self._by_age[at // 1_000].append(post_id)
                    continue
                del self._records[post_id]
                if post.is_live:
                    expired.append(post_id)
        return expired

    def _join(self, post: Post) -> Post | None:
        packed = self._records.get(post.post_id)
        known = None if packed is None else unpack_post(packed)
        joined = post if known is None else join(known, post)
        if joined == known:
            return None
        if len(joined.labels) > MAX_LABELS:
            raise Refused(f"a post may have at most {MAX_LABELS} labels")
        self._records[post.post_id] = pack(joined)
        if known is None:  # a newer time of a known post is found when its old second expires
            self._by_age[newest_at(joined) // 1_000].append(post.post_id)
        return joined
