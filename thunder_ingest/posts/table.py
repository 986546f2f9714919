"""What a post is, after all that was said about it: joining post events in any order, any number of times.

Everything said about a post is a `Post` that carries just that; `join` puts two of them together. Content, deletion
and each label are registers of their own, in each the last writer by event time wins, and at one time the safer:
deletion beats content, a label put on beats it taken off. Content that a deletion outdates is forgotten, since nothing
can bring it back but newer content, so that what was deleted is not kept.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

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
from thunder_ingest.events.text import packed_tokens, packed_tokens_of

MAX_LABELS: Final = 64
"""Labels that one post may bear, those taken off again included."""

STATE_HEADER: Final = "state"
"""The header of a tombstone that still tells what is known of a post that is not there."""

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
    """What some events changed: the record of each post, and why some were refused, by their place."""

    records: list[Change]
    refused: dict[int, Refused]


def from_event(event: PostEvent) -> Post:
    """What one event says about a post."""
    if isinstance(event, PostCreated):
        return _created(event)
    post = Post(
        post_id=id64(event.post_id),
        author_id=id64(event.author_id),
        post_form=string_form(event.post_id),
        author_form=string_form(event.author_id),
    )
    if isinstance(event, PostDeleted):
        post.deleted_at = event.at
    else:
        post.labels = {event.label: -event.at if event.removed else event.at}
    return post


def _created(event: PostCreated) -> Post:
    return unpack_post(_packed_creation(event, packed_tokens(event.text or "")))


def _packed_creation(event: PostCreated, tokens: bytes) -> bytes:
    """The record of a post of which nothing but its creation is known: all that most posts ever are.

    Written field by field, in the order of `Post`, since it costs a third of building the object first.
    """
    post_id, author_id, at = event.post_id, event.author_id, event.at
    return _encode(
        (
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
    )


def join(a: Post, b: Post) -> Post:
    """What two records say about one post together: commutative, associative, idempotent.

    The earliest creation stands, so that an edit or a restoration makes no post younger.

    Raises:
        Refused: where they are not of one post by one author, under one published form of both ids.

    """
    _check_identity(a, b)
    created = [at for at in (a.created_at, b.created_at) if at]
    joined = msgspec.structs.replace(
        _newer_content(a, b),
        created_at=min(created, default=0),
        deleted_at=max(a.deleted_at, b.deleted_at),
        labels=_joined_labels(a.labels, b.labels),
    )
    return joined if joined.is_live or not joined.at else msgspec.structs.replace(joined, **_NO_CONTENT)


def _check_identity(known: Post, post: Post) -> None:
    if known.post_id != post.post_id:
        raise Refused(f"posts {known.post_id} and {post.post_id} are not one")
    if known.post_form != post.post_form:
        raise Refused(f"another post id, {_form(known.post_id, known.post_form)}, already stands for the same number")
    if (known.author_id, known.author_form) != (post.author_id, post.author_form):
        raise Refused(f"the author of this post is {_form(known.author_id, known.author_form)}")


def _form(number: int, string: str | None) -> str:
    return str(number) if string is None else repr(string)


def _newer_content(a: Post, b: Post) -> Post:
    if a.at != b.at:
        return a if a.at > b.at else b
    return max(a, b, key=_content) if a != b else a


def _content(post: Post) -> bytes:
    return msgspec.msgpack.encode([getattr(post, name) for name in _CONTENT])


def _joined_labels(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    """Of each label the newest word; labels in order of their names, so that equal posts are packed to equal bytes."""
    if not b:
        return a
    labels = {name: max(a.get(name, 0), b.get(name, 0), key=_label_order) for name in a.keys() | b.keys()}
    return dict(sorted(labels.items()))


def _label_order(at: int) -> tuple[int, int]:
    return abs(at), at


def newest_at(post: Post) -> int:
    """The time of the last thing that is known about a post."""
    return max(post.at, post.created_at, post.deleted_at, *map(abs, post.labels.values()))


def changelog(post: Post) -> Change:
    """A post's record in `thunder-posts`: key, value, headers.

    What is not live is a tombstone, whose header still tells what a restarting flow has to know: when the post was
    deleted, by whom it was, its labels.
    """
    if post.is_live:
        return key_of_id(post.post_id), pack(post), None
    return key_of_id(post.post_id), None, [(STATE_HEADER, pack(post))]


def _record_of(value: bytes | None, headers: Headers | None) -> bytes | None:
    """The packed post in a record of the changelog."""
    return value if value is not None else dict(headers or ()).get(STATE_HEADER)


class PostTable:
    """All posts that are younger than `max_age_ms`, deleted ones included: the state of the posts flow.

    Whatever the order of events, duplicates among them, the table is the same, as long as none is older than that age.
    It holds posts packed, as they stand in the changelog: a fraction of the memory, and nothing that the garbage
    collector would have to walk.
    """

    def __init__(self, max_age_ms: int) -> None:
        self._max_age_ms = max_age_ms
        self._records: dict[int, bytes] = {}
        self._by_age: defaultdict[int, list[int]] = defaultdict(
            list
        )  # post ids by the second of `newest_at`, or an earlier

    def __len__(self) -> int:
        return len(self._records)

    def restore(self, value: bytes | None, headers: Headers | None) -> None:
        """Take over a record of the changelog, in any order.

        Raises:
            Refused: where the record contradicts an earlier one.

        """
        packed = _record_of(value, headers)
        if packed is not None:
            self._join(unpack_post(packed))

    def apply(self, event: PostEvent, now_ms: int) -> Post | None:
        """Join an event; returns the post as it is now, or None where nothing changed or the event came too late.

        Raises:
            Refused: where the event contradicts what is known: another author, another form of an id, or too many
                labels.

        """
        changes = self.changes([event], now_ms)
        for reason in changes.refused.values():
            raise reason
        packed = [_record_of(value, headers) for _, value, headers in changes.records]
        return unpack_post(packed[0]) if packed and packed[0] is not None else None

    def changes(self, events: Sequence[PostEvent], now_ms: int) -> Changes:
        """Join events, in order, as `apply` does; of several changes to one post only the last is worth a record."""
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
                if type(event) is PostCreated:  # what most events are: there is nothing to join
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
        """Forget the posts about which nothing was said for `max_age_ms`; returns the ids of those that were live.

        Their records are still to be taken out of the changelog. The others are tombstones already, and to write one
        more would be wrong: another process may have heard of the post's creation since this one was started.
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
            raise Refused(f"a post may bear {MAX_LABELS} labels")
        self._records[post.post_id] = pack(joined)
        if known is None:  # that a known post has become younger is found out when its second is over
            self._by_age[newest_at(joined) // 1_000].append(post.post_id)
        return joined
