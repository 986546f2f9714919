"""What is popular: the list for viewers about whom nothing is known."""

from typing import Final

import numpy as np
from jaxtyping import Float32, Int32, Int64

from thunder_ingest.events import ACTION_INDEX, IMPRESSION, NEGATIVE_ACTIONS

_POSITIVE: Final = [
    ACTION_INDEX[name]
    for name in ("favorite", "reply", "repost", "quote", "share", "share_via_dm", "share_via_copy_link")
]
_NEGATIVE: Final = [ACTION_INDEX[name] for name in NEGATIVE_ACTIONS]
_NEGATIVE_WEIGHT: Final = 10  # a report says more than a favorite, and is rarer
_PRIOR_ENGAGEMENTS: Final = 1.0
_PRIOR_IMPRESSIONS: Final = 50.0
HALF_LIFE_MS: Final = 6 * 3_600_000


def engagement_rate(totals: Int32[np.ndarray, "n 20"]) -> Float32[np.ndarray, " n"]:
    """Positive engagements per impression, smoothed: `(P + 1) / (I + 50)`.

    P are favorites, replies, reposts, quotes and shares less ten times what is negative, at least 0; I are impressions,
    at least P, since an app may not publish them. A post that nobody has seen yet stands at 2 %, so that it is tried
    before one that was shown and passed over.
    """
    counts = totals.astype(np.int64)
    positive = counts[:, _POSITIVE].sum(axis=1) - _NEGATIVE_WEIGHT * counts[:, _NEGATIVE].sum(axis=1)
    positive = np.maximum(positive, 0)
    impressions = np.maximum(counts[:, IMPRESSION], positive)
    rate = (positive + _PRIOR_ENGAGEMENTS) / (impressions + _PRIOR_IMPRESSIONS)
    return np.asarray(rate, np.float32)


def popularity(
    rate: Float32[np.ndarray, " n"], created_at: Int64[np.ndarray, " n"], now_ms: int
) -> Float32[np.ndarray, " n"]:
    """The engagement rate, halved every six hours of a post's age."""
    age = np.maximum(now_ms - created_at, 0).astype(np.float32)
    return np.asarray(rate * np.exp2(-age / np.float32(HALF_LIFE_MS)))
