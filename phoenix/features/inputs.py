"""The inputs of the models: raw columns as callers have them, and the hashed and bucketed rows that the device gets.

Glossary of shapes, the same in all modules of `phoenix.features`, `phoenix.models`, `phoenix.training` and
`phoenix.serving`; a module's docstring adds its own letters.

    B: viewers of a batch; in training, slates
    H: history positions, newest last; shorter histories are right-aligned
    C: candidates of each viewer
    n: posts
    T: text tokens of a post, padded with 0
    K: hashed rows of an id (`hashing.HASHES`)
    A: actions, 19; discrete ones first, dwell time last
    D: width of the transformer, `ModelConfig.dim`
    E: width of a hashed table or of a two-tower vector, `ModelConfig.table_dim` and `embed_dim`
    R: rows of a table
    *n: any leading axes

The host hashes ids (`hashing`), because JAX has no 64-bit integers by default, and because hashing on the host overlaps
with computing on the device. Dwell times, ages and video lengths become buckets of growing width (log bucketing), since
their order of magnitude matters.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Real, Shaped, UInt8, UInt32

from infra.ports.clock import DAY_MS, HOUR_MS
from phoenix.features.actions import ACTION_COUNT
from phoenix.features.hashing import AUTHOR_SEED, POST_SEED, TOKEN_SEED, USER_SEED, hash_rows
from phoenix.features.stop_words import are_stop_words
from phoenix.models.configs import ModelConfig
from thunder_ingest.counts.columns import COUNT_COLUMNS
from thunder_ingest.events.actions import SURFACE_CODES

SURFACES: Final = SURFACE_CODES
LOG_BUCKETS: Final = 16
PHOTO_BUCKETS: Final = 8
WATCHED_BUCKETS: Final = 18
HOURS: Final = 25
WEEKDAYS: Final = 8
"""Rows of a table; row 0 is not used, since tables read it as zeros."""
_FIRST_WEEKDAY: Final = 3
"""The epoch began on a Thursday, the fourth day of the week."""
Column = Any
"""A column of rows: a NumPy array on the host, a JAX array inside a traced function."""
Rows = TypeVar("Rows", "HistoryRows", "CandidateRows", "PostRows")
TextReader = Callable[[UInt32[np.ndarray, "*n T"]], Float32[np.ndarray, "*n E"]]
"""Returns the mean embedding of each text; serving passes its text cache, so that the model looks up no words."""
_DWELL_UNIT_MS: Final = 250
_AGE_UNIT_MS: Final = 60_000
VIDEO_BUCKETS: Final = 64
_VIDEO_EDGES_MS: Final = np.concatenate([[1.0], 2_000.0 * 2.0 ** (np.arange(VIDEO_BUCKETS - 2) / 4.0)])
"""Lower edges of the buckets, a quarter of a doubling each: the share of viewers that finish a video changes within one
doubling of its length."""


class History(NamedTuple):
    """Viewers and their histories of actions, as raw columns."""

    user_id: Int64[np.ndarray, " B"]
    post_id: Int64[np.ndarray, "B H"]
    author_id: Int64[np.ndarray, "B H"]
    tokens: UInt32[np.ndarray, "B H T"]  # 0 for an unknown text
    actions: Bool[np.ndarray, "B H A"]  # all False: seen and passed over
    recorded: Bool[np.ndarray, "B H A"]  # False: unknown, because the log did not record the action yet
    dwell_ms: Float32[np.ndarray, "B H"]
    age_ms: Float32[np.ndarray, "B H"]  # from the action to the feed request
    surface: UInt8[np.ndarray, "B H"]  # `surface_code`, 0 for an unknown surface
    video_ms: Int32[np.ndarray, "B H"]  # 0 for no video, or an unknown post
    mask: Bool[np.ndarray, "B H"]  # False: padding


class CandidateInputs(NamedTuple):
    """Candidates of each viewer, as raw columns."""

    post_id: Int64[np.ndarray, "B C"]
    author_id: Int64[np.ndarray, "B C"]
    tokens: UInt32[np.ndarray, "B C T"]
    video_ms: Int32[np.ndarray, "B C"]
    photos: Int32[np.ndarray, "B C"]
    age_ms: Int64[np.ndarray, "B C"]  # from the post's creation to the feed request
    totals: Int32[np.ndarray, "B C A+1"]  # counts of each action on the post so far, then of impressions
    asked_at: Int64[np.ndarray, "B C"]  # time of the feed request, epoch ms
    surface: UInt8[np.ndarray, " B"]  # the surface that will show the feed
    mask: Bool[np.ndarray, "B C"]  # False: padding


class PostInputs(NamedTuple):
    """Posts for the candidate tower: the properties of a post without engagement, so no post id and no counts."""

    author_id: Int64[np.ndarray, " n"]
    tokens: UInt32[np.ndarray, "n T"]
    video_ms: Int32[np.ndarray, " n"]
    photos: Int32[np.ndarray, " n"]


class HistoryRows(NamedTuple):
    """A `History` as rows of embedding tables; texts as rows, or as mean embeddings from a `TextReader`."""

    user: Int32[Column, "B K"]
    post: Int32[Column, "B H K"]
    author: Int32[Column, "B H K"]
    tokens: Int32[Column, "B H T"] | Float32[Column, "B H E"]
    actions: Bool[Column, "B H A"]
    recorded: Bool[Column, "B H A"]
    dwell: Int32[Column, "B H"]
    age: Int32[Column, "B H"]
    surface: Int32[Column, "B H"]
    video: Int32[Column, "B H"]
    watched: Int32[Column, "B H"]  # share of the video
    mask: Bool[Column, "B H"]


class CandidateRows(NamedTuple):
    """`CandidateInputs` as rows of embedding tables; texts as rows, or as mean embeddings from a `TextReader`."""

    post: Int32[Column, "B C K"]
    author: Int32[Column, "B C K"]
    tokens: Int32[Column, "B C T"] | Float32[Column, "B C E"]
    video: Int32[Column, "B C"]
    photos: Int32[Column, "B C"]
    age: Int32[Column, "B C"]
    totals: Int32[Column, "B C A+1"]
    hour: Int32[Column, "B C"]  # of the day, in UTC
    weekday: Int32[Column, "B C"]
    surface: Int32[Column, " B"]


class PostRows(NamedTuple):
    """`PostInputs` as rows of embedding tables."""

    author: Int32[Column, "n K"]
    tokens: Int32[Column, "n T"]
    video: Int32[Column, " n"]
    photos: Int32[Column, " n"]


def history_rows(config: ModelConfig, history: History, texts: TextReader | None = None) -> HistoryRows:
    """Hash and bucket histories of any H and T.

    The result has the newest `config.history` positions, left-padded, and the first `config.tokens` tokens of a text.
    """

    def newest(columns: Shaped[np.ndarray, "B h *rest"]) -> Any:
        return _resized(columns[:, -config.history :], 1, config.history, in_front=True)

    return HistoryRows(
        user=hash_rows(history.user_id, config.user_rows, seed=USER_SEED),
        post=hash_rows(newest(history.post_id), config.post_rows, seed=POST_SEED),
        author=hash_rows(newest(history.author_id), config.author_rows, seed=AUTHOR_SEED),
        tokens=_texts(config, newest(history.tokens), texts),
        actions=newest(history.actions),
        recorded=newest(history.recorded),
        dwell=log_bucket(newest(history.dwell_ms), _DWELL_UNIT_MS),
        age=log_bucket(newest(history.age_ms), _AGE_UNIT_MS),
        surface=newest(history.surface).astype(np.int32),
        video=_video_bucket(newest(history.video_ms)),
        watched=_watched_bucket(newest(history.dwell_ms), newest(history.video_ms)),
        mask=newest(history.mask),
    )


def candidate_rows(
    config: ModelConfig, candidates: CandidateInputs, start: int, size: int, texts: TextReader | None = None
) -> CandidateRows:
    """Hash and bucket the candidates from `start` to `start + size`, padded on the right to `size`."""

    def chunk(columns: Shaped[np.ndarray, "B C *rest"]) -> Any:
        return _resized(columns[:, start : start + size], 1, size)

    return CandidateRows(
        post=hash_rows(chunk(candidates.post_id), config.post_rows, seed=POST_SEED),
        author=hash_rows(chunk(candidates.author_id), config.author_rows, seed=AUTHOR_SEED),
        tokens=_texts(config, chunk(candidates.tokens), texts),
        video=_video_bucket(chunk(candidates.video_ms)),
        photos=_photo_bucket(chunk(candidates.photos)),
        age=log_bucket(chunk(candidates.age_ms), _AGE_UNIT_MS),
        totals=chunk(candidates.totals),
        hour=(1 + chunk(candidates.asked_at) // HOUR_MS % 24).astype(np.int32),
        weekday=(1 + (chunk(candidates.asked_at) // DAY_MS + _FIRST_WEEKDAY) % 7).astype(np.int32),
        surface=candidates.surface.astype(np.int32),
    )


def post_rows(config: ModelConfig, posts: PostInputs) -> PostRows:
    """Hash and bucket posts of any n and T."""
    return PostRows(
        author=hash_rows(posts.author_id, config.author_rows, seed=AUTHOR_SEED),
        tokens=_texts(config, posts.tokens),
        video=_video_bucket(posts.video_ms),
        photos=_photo_bucket(posts.photos),
    )


def log_bucket(values: Real[np.ndarray, "..."], unit: float) -> Int32[np.ndarray, "..."]:
    """The bucket of a value: 0 below one unit, 1 below two, 2 below four and so on, at most LOG_BUCKETS−1."""
    _, exponents = np.frexp(np.maximum(values.astype(np.float64) / unit, 0.0))  # exact, unlike a logarithm
    return np.clip(np.asarray(exponents, np.int32), 0, LOG_BUCKETS - 1)


def _video_bucket(video_ms: Int32[np.ndarray, "..."]) -> Int32[np.ndarray, "..."]:
    """0 for no video, else 1 … VIDEO_BUCKETS−1 by length."""
    return np.searchsorted(_VIDEO_EDGES_MS, video_ms, side="right").astype(np.int32)


def _watched_bucket(
    dwell_ms: Float32[np.ndarray, "..."], video_ms: Int32[np.ndarray, "..."]
) -> Int32[np.ndarray, "..."]:
    """0 for an unknown share, else 1 … WATCHED_BUCKETS−1 by eighths of the video, up to twice its length."""
    eighths = np.floor(8 * dwell_ms.astype(np.float64) / np.maximum(video_ms, 1))
    buckets = 1 + np.minimum(eighths, WATCHED_BUCKETS - 2).astype(np.int32)
    return np.where((dwell_ms > 0) & (video_ms > 0), buckets, np.int32(0))


def _photo_bucket(photos: Int32[np.ndarray, "..."]) -> Int32[np.ndarray, "..."]:
    return np.clip(np.asarray(photos, np.int32), 0, PHOTO_BUCKETS - 1)


def _texts(config: ModelConfig, tokens: UInt32[np.ndarray, "*n t"], texts: TextReader | None = None) -> Any:
    """The rows of the first `config.tokens` tokens of each text, or the mean embeddings that the reader returns."""
    first = _resized(tokens[..., : config.tokens], tokens.ndim - 1, config.tokens)
    return token_rows(first, config.token_rows) if texts is None else texts(first)


def token_rows(tokens: UInt32[np.ndarray, "*n T"], buckets: int) -> Int32[np.ndarray, "*n T"]:
    """One row per token, 0 for a stop word; collisions of single tokens matter little in the mean of a text."""
    read = np.where(are_stop_words(tokens), np.uint32(0), tokens)
    rows: Int32[np.ndarray, "*n T"] = hash_rows(read, buckets, hashes=1, seed=TOKEN_SEED)[..., 0]
    return rows


def _resized(columns: Any, axis: int, size: int, *, in_front: bool = False) -> Any:
    """Pad an axis with zeros to `size`, on its right or in front."""
    missing = size - columns.shape[axis]
    if not missing:
        return columns
    shape = (*columns.shape[:axis], missing, *columns.shape[axis + 1 :])
    zeros = np.zeros(shape, columns.dtype)
    return np.concatenate([zeros, columns] if in_front else [columns, zeros], axis=axis)


def padded(rows: Rows, size: int) -> Rows:
    """Rows padded with empty viewers or posts to `size`."""
    return type(rows)(*(_resized(column, 0, size) for column in rows))


def blank_history(config: ModelConfig, viewers: int) -> History:
    """Absent viewers with empty histories, for compiling and for shapes."""
    flat, deep = (viewers, config.history), (viewers, config.history, config.tokens)
    return History(
        user_id=np.zeros(viewers, np.int64),
        post_id=np.zeros(flat, np.int64),
        author_id=np.zeros(flat, np.int64),
        tokens=np.zeros(deep, np.uint32),
        actions=np.zeros((*flat, ACTION_COUNT), bool),
        recorded=np.ones((*flat, ACTION_COUNT), bool),
        dwell_ms=np.zeros(flat, np.float32),
        age_ms=np.zeros(flat, np.float32),
        surface=np.zeros(flat, np.uint8),
        video_ms=np.zeros(flat, np.int32),
        mask=np.zeros(flat, bool),
    )


def blank_candidates(config: ModelConfig, viewers: int, count: int) -> CandidateInputs:
    """Candidates without any property, for compiling and for shapes."""
    flat = (viewers, count)
    return CandidateInputs(
        post_id=np.zeros(flat, np.int64),
        author_id=np.zeros(flat, np.int64),
        tokens=np.zeros((*flat, config.tokens), np.uint32),
        video_ms=np.zeros(flat, np.int32),
        photos=np.zeros(flat, np.int32),
        age_ms=np.zeros(flat, np.int64),
        totals=np.zeros((*flat, COUNT_COLUMNS), np.int32),
        asked_at=np.zeros(flat, np.int64),
        surface=np.zeros(viewers, np.uint8),
        mask=np.ones(flat, bool),
    )


def blank_posts(config: ModelConfig, count: int) -> PostInputs:
    """Posts without any property, for compiling and for shapes."""
    return PostInputs(
        author_id=np.zeros(count, np.int64),
        tokens=np.zeros((count, config.tokens), np.uint32),
        video_ms=np.zeros(count, np.int32),
        photos=np.zeros(count, np.int32),
    )
