"""Popularity: engagement rate with an exponential decay by age, for new viewers."""

from typing import Final

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt32

from thunder_ingest.counts.columns import IMPRESSIONS
from thunder_ingest.events import ACTION_INDEX, NEGATIVE_ACTIONS, REPLY, REPOST
from thunder_ingest.kernels.compiled import kernel

_POSITIVE: Final = [
    ACTION_INDEX[name]
    for name in ("favorite", "reply", "repost", "quote", "share", "share_via_dm", "share_via_copy_link")
]
_NEGATIVE: Final = [ACTION_INDEX[name] for name in NEGATIVE_ACTIONS]
_NEGATIVE_WEIGHT: Final = 10  # a report is rarer than a favorite and a stronger signal
_PRIOR_ENGAGEMENTS: Final = 1.0
_PRIOR_IMPRESSIONS: Final = 50.0
HALF_LIFE_MS: Final = 6 * 3_600_000


def engagement_rate(totals: Int32[np.ndarray, "n 20"]) -> Float32[np.ndarray, " n"]:
    """Positive engagements per impression with additive (Laplace) smoothing: `(P + 1) / (I + 50)`.

    P is the number of favorites, replies, reposts, quotes and shares, less ten times the negative actions, at least 0.
    I is the number of impressions, at least P, since an app may not publish impressions. A post without impressions has
    2 %, so it comes before a post that was shown and ignored.
    """
    counts = totals.astype(np.int64)
    positive = counts[:, _POSITIVE].sum(axis=1) - _NEGATIVE_WEIGHT * counts[:, _NEGATIVE].sum(axis=1)
    positive = np.maximum(positive, 0)
    impressions = np.maximum(counts[:, IMPRESSIONS], positive)
    rate = (positive + _PRIOR_ENGAGEMENTS) / (impressions + _PRIOR_IMPRESSIONS)
    return np.asarray(rate, np.float32)


@kernel
def popularity(rate: float, age_ms: int) -> float:
    """The engagement rate, halved for every six hours of a post's age."""
    return rate * 2.0 ** (-max(age_ms, 0) / HALF_LIFE_MS)


def most_popular(
    rows: Int32[np.ndarray, " n"],
    tags: UInt32[np.ndarray, " n"],
    rate: Float32[np.ndarray, " rows"],
    created_at: Int64[np.ndarray, " rows"],
    post_id: Int64[np.ndarray, " rows"],
    now_ms: int,
    limit: int,
) -> Int64[np.ndarray, " r"]:
    """The rows of the most popular originals and quotes, best first, ties by post id.

    Args:
        rows: of the posts to select from.
        tags: of the same, with the kind in the lowest two bits.
        rate: engagement rates by row.
        created_at: by row.
        post_id: by row.
        now_ms: the time from which ages count.
        limit: maximum number of results.

    """
    score = np.empty(len(rows), np.float32)
    _rate_all(rows, tags, rate, created_at, now_ms, score)
    fit = np.flatnonzero(score >= 0)
    if 0 < limit < len(fit):
        least = np.partition(score[fit], len(fit) - limit)[len(fit) - limit]
        fit = fit[score[fit] >= least]
    chosen = rows[fit].astype(np.int64)
    best: Int64[np.ndarray, " r"] = chosen[np.lexsort((-post_id[chosen], -score[fit]))][: max(limit, 0)]
    return best


@kernel
def _rate_all(
    rows: Int32[np.ndarray, " n"],
    tags: UInt32[np.ndarray, " n"],
    rate: Float32[np.ndarray, " rows"],
    created_at: Int64[np.ndarray, " rows"],
    now_ms: int,
    score: Float32[np.ndarray, " n"],
) -> None:
    """The popularity of posts, -1 for replies and reposts."""
    for i in range(len(rows)):
        kind = tags[i] & 3
        row = rows[i]
        score[i] = -1.0 if kind in (REPLY, REPOST) else popularity(rate[row], now_ms - created_at[row])
