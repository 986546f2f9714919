"""What the models are asked with: raw columns as callers have them, and the hashed rows that the device gets.

Glossary of shapes:

    B: viewers of a batch
    H: history positions, newest last; shorter histories are right-aligned
    C: candidates of each viewer
    n: posts
    T: text tokens of a post, padded with 0
    E: width of the table of words
    A: the 19 actions; 20 with impressions, of which there are totals too
    K: hashed rows per id

Ids are hashed on the host, because JAX has no 64-bit integers by default, and because hashing there overlaps with the
device's work. Dwell times and ages become buckets of doubling width: what matters is whether minutes, hours or days.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Real, Shaped, UInt8, UInt32

from phoenix.features.actions import ACTION_COUNT
from phoenix.features.hashing import AUTHOR_SEED, POST_SEED, TOKEN_SEED, USER_SEED, hash_rows
from phoenix.models.configs import ModelConfig

SURFACES: Final = 16
TOTALS: Final = ACTION_COUNT + 1
LOG_BUCKETS: Final = 16
PHOTO_BUCKETS: Final = 8
Column = Any
"""Of hashed rows: NumPy's array where it is made, JAX's inside a traced function."""
Rows = TypeVar("Rows", "HistoryRows", "CandidateRows", "PostRows")
TextReader = Callable[[UInt32[np.ndarray, "*n T"]], Float32[np.ndarray, "*n E"]]
"""Gives the mean of each text's rows, where the model is not to look them up itself."""
_DWELL_UNIT_MS: Final = 250
_AGE_UNIT_MS: Final = 60_000
VIDEO_BUCKETS: Final = 64
_VIDEO_EDGES_MS: Final = np.concatenate([[1.0], 2_000.0 * 2.0 ** (np.arange(VIDEO_BUCKETS - 2) / 4.0)])
"""A video's length in quarters of a doubling: whether it is watched to its end hangs on less than a factor of two."""


class History(NamedTuple):
    """Viewers and what they did, as callers have it."""

    user_id: Int64[np.ndarray, " B"]
    post_id: Int64[np.ndarray, "B H"]
    author_id: Int64[np.ndarray, "B H"]
    tokens: UInt32[np.ndarray, "B H T"]  # 0 where the text is no longer known
    actions: Bool[np.ndarray, "B H 19"]  # all False: seen and passed over
    dwell_ms: Float32[np.ndarray, "B H"]
    age_ms: Float32[np.ndarray, "B H"]  # of the action, when the feed is asked for
    surface: UInt8[np.ndarray, "B H"]  # below SURFACES
    mask: Bool[np.ndarray, "B H"]  # False: no position


class CandidateInputs(NamedTuple):
    """Candidates of each viewer, as callers have them."""

    post_id: Int64[np.ndarray, "B C"]
    author_id: Int64[np.ndarray, "B C"]
    tokens: UInt32[np.ndarray, "B C T"]
    video_ms: Int32[np.ndarray, "B C"]
    photos: Int32[np.ndarray, "B C"]
    age_ms: Int64[np.ndarray, "B C"]  # of the post
    totals: Int32[np.ndarray, "B C 20"]  # how often each action has followed on the post so far, then impressions
    surface: UInt8[np.ndarray, " B"]  # where the feed will be shown
    mask: Bool[np.ndarray, "B C"]  # False: no candidate


class PostInputs(NamedTuple):
    """Posts for the candidate tower: what is known of a post before anyone has seen it, so no post id."""

    author_id: Int64[np.ndarray, " n"]
    tokens: UInt32[np.ndarray, "n T"]
    video_ms: Int32[np.ndarray, " n"]
    photos: Int32[np.ndarray, " n"]


class HistoryRows(NamedTuple):
    """A `History` as rows of embedding tables; of texts, where serving knows them, the mean of these rows."""

    user: Int32[Column, "B K"]
    post: Int32[Column, "B H K"]
    author: Int32[Column, "B H K"]
    tokens: Int32[Column, "B H T"] | Float32[Column, "B H E"]
    actions: Bool[Column, "B H A"]
    dwell: Int32[Column, "B H"]
    age: Int32[Column, "B H"]
    surface: Int32[Column, "B H"]
    mask: Bool[Column, "B H"]


class CandidateRows(NamedTuple):
    """`CandidateInputs` as rows of embedding tables; of texts, where serving knows them, the mean of these rows."""

    post: Int32[Column, "B C K"]
    author: Int32[Column, "B C K"]
    tokens: Int32[Column, "B C T"] | Float32[Column, "B C E"]
    video: Int32[Column, "B C"]
    photos: Int32[Column, "B C"]
    age: Int32[Column, "B C"]
    totals: Int32[Column, "B C 20"]
    surface: Int32[Column, " B"]


class PostRows(NamedTuple):
    """`PostInputs` as rows of embedding tables."""

    author: Int32[Column, "n K"]
    tokens: Int32[Column, "n T"]
    video: Int32[Column, " n"]
    photos: Int32[Column, " n"]


def history_rows(config: ModelConfig, history: History, texts: TextReader | None = None) -> HistoryRows:
    """Hash and bucket histories of whatever H and T: the newest `config.history` positions, filled up in front."""

    def newest(columns: Shaped[np.ndarray, "B h *rest"]) -> Any:
        return _resized(columns[:, -config.history :], 1, config.history, in_front=True)

    return HistoryRows(
        user=hash_rows(history.user_id, config.user_rows, seed=USER_SEED),
        post=hash_rows(newest(history.post_id), config.post_rows, seed=POST_SEED),
        author=hash_rows(newest(history.author_id), config.author_rows, seed=AUTHOR_SEED),
        tokens=_texts(config, newest(history.tokens), texts),
        actions=newest(history.actions),
        dwell=log_bucket(newest(history.dwell_ms), _DWELL_UNIT_MS),
        age=log_bucket(newest(history.age_ms), _AGE_UNIT_MS),
        surface=newest(history.surface).astype(np.int32),
        mask=newest(history.mask),
    )


def candidate_rows(
    config: ModelConfig, candidates: CandidateInputs, start: int, size: int, texts: TextReader | None = None
) -> CandidateRows:
    """Hash and bucket `size` candidates from `start` on, filled up behind where there are no more."""

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
        surface=candidates.surface.astype(np.int32),
    )


def post_rows(config: ModelConfig, posts: PostInputs) -> PostRows:
    """Hash and bucket posts of whatever n and T."""
    return PostRows(
        author=hash_rows(posts.author_id, config.author_rows, seed=AUTHOR_SEED),
        tokens=_texts(config, posts.tokens),
        video=_video_bucket(posts.video_ms),
        photos=_photo_bucket(posts.photos),
    )


def log_bucket(values: Real[np.ndarray, "..."], unit: float) -> Int32[np.ndarray, "..."]:
    """Which doubling of `unit` a value lies in: 0 below one unit, 1 below two, 2 below four, at most LOG_BUCKETS−1."""
    _, exponents = np.frexp(np.maximum(values.astype(np.float64) / unit, 0.0))  # exact, where a logarithm might not be
    return np.clip(np.asarray(exponents, np.int32), 0, LOG_BUCKETS - 1)


def _video_bucket(video_ms: Int32[np.ndarray, "..."]) -> Int32[np.ndarray, "..."]:
    """0 for no video, then from 1 on by length."""
    return np.searchsorted(_VIDEO_EDGES_MS, video_ms, side="right").astype(np.int32)


def _photo_bucket(photos: Int32[np.ndarray, "..."]) -> Int32[np.ndarray, "..."]:
    return np.clip(np.asarray(photos, np.int32), 0, PHOTO_BUCKETS - 1)


def _texts(config: ModelConfig, tokens: UInt32[np.ndarray, "*n t"], texts: TextReader | None = None) -> Any:
    """What a model gets of texts: of their first T tokens a row each, or what a reader makes of these tokens."""
    read = _resized(tokens[..., : config.tokens], tokens.ndim - 1, config.tokens)
    return token_rows(read, config.token_rows) if texts is None else texts(read)


def token_rows(tokens: UInt32[np.ndarray, "*n T"], buckets: int) -> Int32[np.ndarray, "*n T"]:
    """One row per token: a text has so many that collisions of single ones do not matter."""
    rows: Int32[np.ndarray, "*n T"] = hash_rows(tokens, buckets, hashes=1, seed=TOKEN_SEED)[..., 0]
    return rows


def _resized(columns: Any, axis: int, size: int, *, in_front: bool = False) -> Any:
    """Zeros added along an axis until it has `size`."""
    missing = size - columns.shape[axis]
    if not missing:
        return columns
    shape = (*columns.shape[:axis], missing, *columns.shape[axis + 1 :])
    zeros = np.zeros(shape, columns.dtype)
    return np.concatenate([zeros, columns] if in_front else [columns, zeros], axis=axis)


def filled_up(rows: Rows, size: int) -> Rows:
    """Rows with empty viewers, or posts, behind them until there are `size`."""
    return type(rows)(*(_resized(column, 0, size) for column in rows))


def blank_history(config: ModelConfig, viewers: int) -> History:
    """Viewers who are nobody and did nothing: what shapes are compiled with."""
    flat, deep = (viewers, config.history), (viewers, config.history, config.tokens)
    return History(
        user_id=np.zeros(viewers, np.int64),
        post_id=np.zeros(flat, np.int64),
        author_id=np.zeros(flat, np.int64),
        tokens=np.zeros(deep, np.uint32),
        actions=np.zeros((*flat, ACTION_COUNT), bool),
        dwell_ms=np.zeros(flat, np.float32),
        age_ms=np.zeros(flat, np.float32),
        surface=np.zeros(flat, np.uint8),
        mask=np.zeros(flat, bool),
    )


def blank_candidates(config: ModelConfig, viewers: int, count: int) -> CandidateInputs:
    """Candidates of which nothing is known."""
    flat = (viewers, count)
    return CandidateInputs(
        post_id=np.zeros(flat, np.int64),
        author_id=np.zeros(flat, np.int64),
        tokens=np.zeros((*flat, config.tokens), np.uint32),
        video_ms=np.zeros(flat, np.int32),
        photos=np.zeros(flat, np.int32),
        age_ms=np.zeros(flat, np.int64),
        totals=np.zeros((*flat, TOTALS), np.int32),
        surface=np.zeros(viewers, np.uint8),
        mask=np.ones(flat, bool),
    )


def blank_posts(config: ModelConfig, count: int) -> PostInputs:
    """Posts of which nothing is known."""
    return PostInputs(
        author_id=np.zeros(count, np.int64),
        tokens=np.zeros((count, config.tokens), np.uint32),
        video_ms=np.zeros(count, np.int32),
        photos=np.zeros(count, np.int32),
    )
