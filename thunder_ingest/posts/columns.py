"""Posts as a structure of arrays: copies for the request path, columns of the store, batches on their way into it."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt16, UInt32, UInt64

from thunder_ingest.counts.columns import COUNT_COLUMNS
from thunder_ingest.events import Post
from thunder_ingest.events.muting import unusual
from thunder_ingest.events.text import MAX_TOKENS


class PostColumns(NamedTuple):
    """n posts, an array per property. An absent id is 0; a row of zeros is no post."""

    post_id: Int64[np.ndarray, " n"]
    author_id: Int64[np.ndarray, " n"]
    created_at: Int64[np.ndarray, " n"]  # epoch ms
    kind: UInt8[np.ndarray, " n"]  # index into events.KINDS
    conversation_id: Int64[np.ndarray, " n"]
    in_reply_to_post_id: Int64[np.ndarray, " n"]
    in_reply_to_author_id: Int64[np.ndarray, " n"]
    source_post_id: Int64[np.ndarray, " n"]
    source_author_id: Int64[np.ndarray, " n"]
    photos: Int32[np.ndarray, " n"]
    video_ms: Int32[np.ndarray, " n"]
    subscriber_only: Bool[np.ndarray, " n"]
    labels: UInt64[np.ndarray, " n"]  # a bit for each label, see PostStore.label_mask
    lang: UInt16[np.ndarray, " n"]  # see PostStore.language
    tokens: UInt32[np.ndarray, "n 64"]  # padded with 0
    totals: Int32[np.ndarray, "n 20"]  # ACTIONS in order, then impressions


class PostFacts(NamedTuple):
    """The columns for visibility rules, with the names and types of `PostColumns`."""

    post_id: Int64[np.ndarray, " n"]
    author_id: Int64[np.ndarray, " n"]
    subscriber_only: Bool[np.ndarray, " n"]
    labels: UInt64[np.ndarray, " n"]


class Referred(NamedTuple):
    """The posts that n posts refer to, at any distance: an entry for each pair.

    The columns have the names and types of `PostColumns`; those of a post that is not stored are 0.
    """

    of: Int64[np.ndarray, " m"]  # index of the post that refers
    post_id: Int64[np.ndarray, " m"]
    author_id: Int64[np.ndarray, " m"]
    subscriber_only: Bool[np.ndarray, " m"]
    labels: UInt64[np.ndarray, " m"]
    is_above: Bool[np.ndarray, " m"]  # True for an answered post, and for all that is reached through one
    is_lost: Bool[np.ndarray, " m"]  # True for a deleted post, and for one that must be stored and is not

    def take(self, index: Int64[np.ndarray, " k"], n: int) -> "Referred":
        """The entries of some of the n posts, given by distinct indexes, for the new order."""
        place = np.full(n, -1, np.int64)
        place[index] = np.arange(len(index))
        of = place[self.of]
        kept = of >= 0
        return Referred(of[kept], *(column[kept] for column in self[1:]))

    def holds(self, found: Bool[np.ndarray, " m"], n: int) -> Bool[np.ndarray, " n"]:
        """True for each of n posts that refers to a found one."""
        holds = np.zeros(n, np.bool_)
        holds[self.of[found]] = True
        return holds


class StoredColumns(NamedTuple):
    """The columns of the store: authors as slots, texts as blocks of the token arena; totals are in `PostTotals`.

    The last row stays zero, so row -1 reads as no post.
    """

    post_id: Int64[np.ndarray, " rows"]
    created_at: Int64[np.ndarray, " rows"]
    at: Int64[np.ndarray, " rows"]  # epoch ms of the newest content
    author: Int32[np.ndarray, " rows"]
    kind: UInt8[np.ndarray, " rows"]
    conversation_id: Int64[np.ndarray, " rows"]
    in_reply_to_post_id: Int64[np.ndarray, " rows"]
    in_reply_to_author_id: Int64[np.ndarray, " rows"]
    source_post_id: Int64[np.ndarray, " rows"]
    source_author_id: Int64[np.ndarray, " rows"]
    photos: UInt16[np.ndarray, " rows"]
    video_ms: Int32[np.ndarray, " rows"]
    subscriber_only: Bool[np.ndarray, " rows"]
    labels: UInt64[np.ndarray, " rows"]
    lang: UInt16[np.ndarray, " rows"]
    text: Int32[np.ndarray, " rows"]
    words: UInt16[np.ndarray, " rows"]
    stream: Int32[np.ndarray, " rows"]


_STORED: Final = StoredColumns._make(
    ("i8", "i8", "i8", "i4", "u1", "i8", "i8", "i8", "i8", "i8", "u2", "i4", "?", "u8", "u2", "i4", "u2", "i4")
)
PLAIN: Final = (
    "created_at",
    "kind",
    "conversation_id",
    "in_reply_to_post_id",
    "in_reply_to_author_id",
    "source_post_id",
    "source_author_id",
    "photos",
    "video_ms",
    "subscriber_only",
)
"""The columns that are copied from the post."""


def zeros(n: int) -> PostColumns:
    """Columns of n rows without posts."""
    wide = {
        "tokens": ("u4", (n, MAX_TOKENS)),
        "totals": ("i4", (n, COUNT_COLUMNS)),
        "author_id": ("i8", n),
        "photos": ("i4", n),
    }
    types = _STORED._asdict()
    columns = {name: wide.get(name) or (types[name], n) for name in PostColumns._fields}
    return PostColumns(**{name: np.zeros(shape, dtype) for name, (dtype, shape) in columns.items()})


def none_referred() -> Referred:
    """No entry."""
    ids, no = np.zeros(0, np.int64), np.zeros(0, np.bool_)
    return Referred(ids, ids, ids, no, np.zeros(0, np.uint64), no, no)


def stored_zeros(rows: int) -> StoredColumns:
    """Columns of the store without posts."""
    return StoredColumns(*(np.zeros(rows, dtype) for dtype in _STORED))


class PostBatch(NamedTuple):
    """Live posts on their way into the store, as arrays; built before the store takes its lock.

    Rare properties are in dictionaries by the index of the post: active labels, and ids that were published as text.
    """

    post_id: Int64[np.ndarray, " n"]
    author_id: Int64[np.ndarray, " n"]
    at: Int64[np.ndarray, " n"]  # epoch ms of the newest content
    plain: dict[str, Int64[np.ndarray, " n"]]  # PLAIN, each clipped to the range of its stored column
    tokens: UInt32[np.ndarray, " t"]
    words: Int64[np.ndarray, " n"]
    streams: UInt32[np.ndarray, " u"]  # for muted keywords, of the texts that differ from their tokens
    lengths: Int64[np.ndarray, " n"]
    langs: list[str]
    lang: Int64[np.ndarray, " n"]  # index into `langs`
    labels: dict[int, list[str]]
    forms: dict[int, tuple[str | None, str | None]]

    def take(self, mask: Bool[np.ndarray, " n"]) -> "PostBatch":
        """The posts under a mask."""
        place = np.cumsum(mask) - 1
        return PostBatch(
            post_id=self.post_id[mask],
            author_id=self.author_id[mask],
            at=self.at[mask],
            plain={name: column[mask] for name, column in self.plain.items()},
            tokens=self.tokens[np.repeat(mask, self.words)],
            words=self.words[mask],
            streams=self.streams[np.repeat(mask, self.lengths)],
            lengths=self.lengths[mask],
            langs=self.langs,
            lang=self.lang[mask],
            labels={int(place[i]): labels for i, labels in self.labels.items() if mask[i]},
            forms={int(place[i]): forms for i, forms in self.forms.items() if mask[i]},
        )


def as_stored(name: str, column: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """A plain column, clipped to the range of the stored column."""
    return np.minimum(column, np.iinfo(np.uint16).max) if name == "photos" else column


def batch_of(posts: Sequence[Post]) -> PostBatch:
    """Read posts into arrays."""
    tokens = np.frombuffer(b"".join([post.tokens for post in posts]), "<u4").astype(np.uint32, copy=False)
    words = np.fromiter((len(post.tokens) // 4 for post in posts), np.int64, len(posts))
    texts = [post.text.encode() for post in posts]
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    raw = np.frombuffer(b"".join(texts), np.uint8)
    streams, lengths = streams_of(raw, np.cumsum(sizes) - sizes, sizes, tokens, words)
    langs: dict[str, int] = {}
    return PostBatch(
        post_id=_integers("post_id", posts),
        author_id=_integers("author_id", posts),
        at=_integers("at", posts),
        plain={name: as_stored(name, _integers(name, posts)) for name in PLAIN},
        tokens=tokens,
        words=words,
        streams=streams,
        lengths=lengths,
        lang=np.array([langs.setdefault(post.lang, len(langs)) for post in posts], np.int64),
        langs=list(langs),
        labels={
            place: [label for label, at in post.labels.items() if at > 0]
            for place, post in enumerate(posts)
            if post.labels
        },
        forms={
            place: (post.post_form, post.author_form)
            for place, post in enumerate(posts)
            if post.post_form is not None or post.author_form is not None
        },
    )


def streams_of(
    raw: UInt8[np.ndarray, " bytes"],
    begins: Int64[np.ndarray, " n"],
    sizes: Int64[np.ndarray, " n"],
    tokens: UInt32[np.ndarray, " t"],
    words: Int64[np.ndarray, " n"],
) -> tuple[UInt32[np.ndarray, " u"], Int64[np.ndarray, " n"]]:
    """The streams for muted keywords, one after another, and the length of each; 0 for one that is the tokens.

    Args:
        raw: contains the texts in UTF-8.
        begins: of the texts.
        sizes: their bytes.
        tokens: their tokens, at most MAX_TOKENS each.
        words: the number of tokens of each.

    """
    lengths = np.zeros(len(sizes), np.int64)
    found = unusual(raw, begins, sizes, words >= MAX_TOKENS)
    ends, stream_ends = np.cumsum(words)[found.places].tolist(), np.cumsum(found.lengths).tolist()
    kept = list[UInt32[np.ndarray, " w"]]()
    for place, end, stream_end in zip(found.places.tolist(), ends, stream_ends, strict=True):
        stream = found.tokens[stream_end - found.lengths[len(kept)] : stream_end]
        kept.append(stream if stream.tobytes() != tokens[end - words[place] : end].tobytes() else stream[:0])
        lengths[place] = len(kept[-1])
    return np.concatenate([np.zeros(0, np.uint32), *kept]), lengths


def _integers(name: str, posts: Sequence[Post]) -> Int64[np.ndarray, " n"]:
    return np.fromiter(map(attrgetter(name), posts), np.int64, len(posts))
