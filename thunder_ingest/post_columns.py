"""Posts as columns: one structure of arrays, which is what the request path works on."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt16, UInt32, UInt64

from thunder_ingest.events import ACTIONS, Post
from thunder_ingest.text import MAX_TOKENS, padded_tokens

TOTALS: Final = len(ACTIONS) + 1
"""Running totals of a post: one for each of ACTIONS, then impressions."""


class PostColumns(NamedTuple):
    """n posts, an array for each property; ids are 0 where there is none, and a row of zeros is no post."""

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


_ROW: Final = np.dtype(
    [(name, "i8") for name in ("post_id", "author_id", "created_at")]
    + [("kind", "u1")]
    + [(f"{name}_id", "i8") for name in ("conversation", "in_reply_to_post", "in_reply_to_author")]
    + [(f"{name}_id", "i8") for name in ("source_post", "source_author")]
    + [("photos", "i4"), ("video_ms", "i4"), ("subscriber_only", "?"), ("labels", "u8"), ("lang", "u2")]
    + [("tokens", "u4", (MAX_TOKENS,)), ("totals", "i4", (TOTALS,))]
)
_PLAIN: Final = tuple(name for name in PostColumns._fields if name not in ("labels", "lang", "tokens", "totals"))


def zeros(n: int) -> PostColumns:
    """Columns of n rows that are no posts."""
    return PostColumns(*(np.zeros(n, _ROW[name]) for name in PostColumns._fields))


def take(columns: PostColumns, rows: Int64[np.ndarray, " k"]) -> PostColumns:
    """A copy of some rows, in the order asked for."""
    return PostColumns(*(column[rows] for column in columns))


def write(columns: PostColumns, rows: Int64[np.ndarray, " k"], posts: Sequence[Post]) -> None:
    """Write what posts themselves say into rows; labels, language and totals are the store's to fill in."""
    for name in _PLAIN:
        getattr(columns, name)[rows] = [getattr(post, name) for post in posts]
    columns.tokens[rows] = padded_tokens([post.tokens for post in posts])
