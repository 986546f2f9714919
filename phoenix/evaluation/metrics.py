"""What is measured, each on all draws at once: AUC, GAUC, log-loss, relative cross-entropy, calibration, NDCG, recall.

Glossary of shapes:

    n: rows, one impression each
    v: viewers
    d: draws, of which the first are the rows as they are (see `phoenix.evaluation.bootstrap`)
    k: places at the top of a list

A draw where a figure has no meaning, such as the AUC of rows of one class, gives NaN.
"""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from phoenix.evaluation.bootstrap import Draws

Labels = Bool[np.ndarray, " n"]
Scores = Float[np.ndarray, " n"]
Figures = Float64[np.ndarray, " d"]

BINS: Final = 20
"""Of the calibration error: equally many rows each, so that no bin is empty where predictions lie close together."""
_LEAST: Final = 1e-7
"""Probabilities are kept so far from 0 and 1: one that is sure and wrong shall cost much, not everything."""


def auc(labels: Labels, scores: Scores, draws: Draws) -> Figures:
    """How often a row with the action scores above one without; of equals, half of them count."""
    order = np.argsort(scores, kind="stable")
    labels, scores = labels[order], scores[order]
    first = np.searchsorted(scores, scores[labels], "left")
    last = np.searchsorted(scores, scores[labels], "right")
    figures = np.empty(len(draws.weight))
    for chunk, weight in draws.by_row(order):
        negative = np.zeros((len(weight), len(order) + 1))
        np.cumsum(np.where(labels, 0, weight), axis=1, out=negative[:, 1:])
        positive = weight[:, labels].astype(np.float64)
        won = (positive * (negative[:, first] + negative[:, last])).sum(axis=1) / 2
        figures[chunk] = _ratio(won, positive.sum(axis=1) * negative[:, -1])
    return figures


def gauc(labels: Labels, scores: Scores, draws: Draws) -> Figures:
    """The mean of the AUC within each viewer who has rows of both classes, weighted by the viewer's rows."""
    of_viewer, impressions = viewer_auc(labels, scores, draws.viewer, draws.weight.shape[1])
    counts = np.where(np.isnan(of_viewer), 0, impressions)
    weight = draws.weight.astype(np.float64)
    return _ratio(weight @ (np.nan_to_num(of_viewer) * counts), weight @ counts)


def viewer_auc(
    labels: Labels, scores: Scores, viewer: Int64[np.ndarray, " n"], viewers: int
) -> tuple[Float64[np.ndarray, " v"], Int64[np.ndarray, " v"]]:
    """The AUC within each viewer, NaN for one whose rows are of one class; and how many rows each has."""
    order = np.lexsort((scores, viewer))
    labels, scores, viewer = labels[order], scores[order], viewer[order]
    starts = np.flatnonzero(_changes(viewer) | _changes(scores))  # of rows that are equal in both
    ties = np.diff(starts, append=len(order))
    negatives = np.concatenate([[0], np.cumsum(~labels)])
    below = negatives[starts] - negatives[np.searchsorted(viewer, viewer[starts])]
    equal = negatives[starts + ties] - negatives[starts]
    won = np.bincount(viewer[starts], (ties - equal) * (below + equal / 2), viewers)
    positive = np.bincount(viewer, labels, viewers)
    impressions = np.bincount(viewer, minlength=viewers)
    return _ratio(won, positive * (impressions - positive)), impressions


def log_loss(labels: Labels, probabilities: Scores, draws: Draws) -> Figures:
    """The mean of -log of the probability that was given to what happened."""
    return draws.mean(_losses(labels, probabilities))


def relative_cross_entropy(labels: Labels, probabilities: Scores, rate: float, draws: Draws) -> Figures:
    """How much of the log-loss of always predicting `rate` is saved, in per cent."""
    mine, constant = (_losses(labels, each) for each in (probabilities, np.full(len(labels), rate)))
    saved: Figures = 100 * (1 - draws.total(mine) / draws.total(constant))
    return saved


def calibration_error(labels: Labels, probabilities: Scores, draws: Draws) -> Figures:
    """The expected calibration error: how far prediction and rate lie apart in a bin, over BINS bins in the mean.

    It is never negative, so noise adds to it, and a draw has more noise than the whole: an interval may begin above its
    estimate. Compare it with that of other scorers.
    """
    rank = np.argsort(np.argsort(probabilities, kind="stable"), kind="stable")
    in_bin = rank * BINS // max(1, len(rank)) == np.arange(BINS)[:, np.newaxis]
    excess = draws.total((in_bin * (probabilities - labels)).T)
    error: Figures = np.abs(excess).sum(axis=1) / draws.total(np.ones(len(rank)))
    return error


def calibration_ratio(labels: Labels, probabilities: Scores, draws: Draws) -> Figures:
    """What was predicted in all over what happened in all: 1 at best, above it where too much is promised."""
    return _ratio(draws.total(probabilities.astype(np.float64)), draws.total(labels.astype(np.float64)))


def ndcg(gains: Float[np.ndarray, "v c"], scores: Float[np.ndarray, "v c"], k: int) -> Float64[np.ndarray, " v"]:
    """The discounted gain of each viewer's k best-scored candidates, as a share of the best possible; NaN without any.

    Args:
        gains: 0 and more, 0 also where there is no candidate.
        scores: -inf where there is no candidate.
        k: how many places count.

    """
    chosen = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    discounts = 1 / np.log2(np.arange(2, chosen.shape[1] + 2))
    reached = (np.take_along_axis(gains, chosen, axis=1) * discounts).sum(axis=1)
    return _ratio(reached, (-np.sort(-gains, axis=1)[:, :k] * discounts).sum(axis=1))


def recall(found: Int64[np.ndarray, "v k"], wanted: Bool[np.ndarray, "v p"]) -> Float64[np.ndarray, " v"]:
    """Which share of the posts that each viewer wanted are among those found; NaN for one who wanted none.

    Args:
        found: posts as columns of `wanted`, none twice; -1 where fewer than k were found.
        wanted: which posts.

    """
    hits = (np.take_along_axis(wanted, np.maximum(found, 0), axis=1) & (found >= 0)).sum(axis=1)
    return _ratio(hits, wanted.sum(axis=1))


def _losses(labels: Labels, probabilities: Scores) -> Float64[np.ndarray, " n"]:
    likelihood = np.where(labels, probabilities, 1 - probabilities.astype(np.float64))
    losses: Float64[np.ndarray, " n"] = -np.log(np.clip(likelihood, _LEAST, 1 - _LEAST))
    return losses


def _ratio(over: Float[np.ndarray, " m"], under: Float[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
    """The quotient, NaN where there is nothing to divide by."""
    quotient: Float64[np.ndarray, " m"] = np.divide(over, under, out=np.full(len(under), np.nan), where=under > 0)
    return quotient


def _changes(column: Float[np.ndarray, " n"] | Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Where a sorted column is another than in the row before; true for the first."""
    changes = np.ones(len(column), bool)
    changes[1:] = column[1:] != column[:-1]
    return changes
