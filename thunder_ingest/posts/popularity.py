"""Popularity: engagement rate with an exponential decay by age, for new viewers."""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt32

from thunder_ingest.counts.columns import IMPRESSIONS
from thunder_ingest.events import ACTION_INDEX, NEGATIVE_ACTIONS, REPLY, REPOST
from thunder_ingest.kernels.compiled import inlined, kernel

_POSITIVE: Final = [
    ACTION_INDEX[name]
    for name in ("favorite", "reply", "repost", "quote", "share", "share_via_dm", "share_via_copy_link")
]
_NEGATIVE: Final = [ACTION_INDEX[name] for name in NEGATIVE_ACTIONS]
POSITIVE, NEGATIVE, SHOWN = range(3)
"""Columns of `signals`."""


class Popularity(NamedTuple):
    """The rules of popularity.

    Attributes:
        negative_weight: so many positive engagements weigh as much as the negative action of one account.
        few_accounts: negative actions of so many accounts change nothing: what few do to all is bounded.
        prior_engagements: added to the engagements (additive smoothing).
        prior_impressions: added to the impressions.
        half_life_ms: the age by which popularity halves.

    """

    negative_weight: float = 10.0
    few_accounts: float = 10.0
    prior_engagements: float = 1.0
    prior_impressions: float = 50.0
    half_life_ms: float = 6 * 3_600_000.0


DEFAULT: Final = Popularity()


def signals(totals: Int32[np.ndarray, "n 20"]) -> Float32[np.ndarray, "n 3"]:
    """The counts that popularity depends on.

    POSITIVE is the number of favorites, replies, reposts, quotes and shares. NEGATIVE is the greatest count of a
    negative action: the number of accounts, since an account counts once, whether it reports, mutes or both. SHOWN is
    the number of impressions, at least POSITIVE, since an app may not publish impressions.
    """
    found = np.empty((len(totals), 3), np.float32)
    found[:, POSITIVE] = totals[:, _POSITIVE].sum(axis=1, dtype=np.int64)
    found[:, NEGATIVE] = totals[:, _NEGATIVE].max(axis=1, initial=0)
    found[:, SHOWN] = np.maximum(totals[:, IMPRESSIONS], found[:, POSITIVE])
    return found


@inlined
def _popularity(positive: float, negative: float, shown: float, age_ms: int, rules: Popularity) -> float:
    """`(P q + a) / (I + b)`, halved for every half-life of age, with q = P / (P + w N).

    N is the number of accounts with a negative action beyond the few that are ignored, w their weight, a and b the
    priors. Each account beyond the few lowers q a little. A post without impressions has the rate of the priors, 2 %,
    so it comes before a post that was shown and ignored.
    """
    heard = rules.negative_weight * max(negative - rules.few_accounts, 0.0)
    liked = positive * positive / (positive + heard) if heard > 0.0 else positive
    rate = (liked + rules.prior_engagements) / (shown + rules.prior_impressions)
    return rate * 2.0 ** (-max(age_ms, 0) / rules.half_life_ms)


def most_popular(
    rows: Int32[np.ndarray, " n"],
    tags: UInt32[np.ndarray, " n"],
    of_rows: Float32[np.ndarray, "rows 3"],
    created_at: Int64[np.ndarray, " rows"],
    post_id: Int64[np.ndarray, " rows"],
    now_ms: int,
    limit: int,
    rules: Popularity,
) -> Int64[np.ndarray, " r"]:
    """The rows of the most popular originals and quotes, best first, ties by post id.

    Args:
        rows: of the posts to select from.
        tags: of the same, with the kind in the lowest two bits.
        of_rows: the signals by row.
        created_at: by row.
        post_id: by row.
        now_ms: the time from which ages count.
        limit: maximum number of results.
        rules: the rules.

    """
    score = np.empty(len(rows), np.float32)
    _rate_all(rows, tags, of_rows, created_at, now_ms, rules, score)
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
    of_rows: Float32[np.ndarray, "rows 3"],
    created_at: Int64[np.ndarray, " rows"],
    now_ms: int,
    rules: Popularity,
    score: Float32[np.ndarray, " n"],
) -> None:
    """The popularity of posts, -1 for replies and reposts."""
    for i in range(len(rows)):
        kind = tags[i] & 3
        row = rows[i]
        if kind in (REPLY, REPOST):
            score[i] = -1.0
        else:
            positive, negative, shown = of_rows[row, POSITIVE], of_rows[row, NEGATIVE], of_rows[row, SHOWN]
            score[i] = _popularity(positive, negative, shown, now_ms - created_at[row], rules)
