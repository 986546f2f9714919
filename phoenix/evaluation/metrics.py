"""Metrics on all draws of the bootstrap: AUC, GAUC, log-loss, relative cross-entropy, calibration, NDCG and recall.

Glossary of shapes:

    s: rows, one impression each
    v: viewers
    d: draws; the first is the original sample (see `phoenix.evaluation.bootstrap`)
    c: candidates of a viewer
    k: positions at the top of a list
    p: posts

A figure that is undefined on a draw, such as the AUC of rows of one class, is NaN.
"""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from phoenix.data.groups import group_starts
from phoenix.evaluation.bootstrap import Draws

Labels = Bool[np.ndarray, " s"]
Scores = Float[np.ndarray, " s"]
Figures = Float64[np.ndarray, " d"]

BINS: Final = 20
"""Number of equal-mass bins of the calibration error. No bin is empty, even if predictions lie close together."""
_LEAST: Final = 1e-7
"""Smallest distance of clipped probabilities from 0 and 1, so that the loss of one row is finite."""


def auc(labels: Labels, scores: Scores, draws: Draws) -> Figures:
    """Return the area under the ROC curve: the probability that a positive scores above a negative; ties count half."""
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
    """Return the grouped AUC (Zhou et al. 2018): the mean AUC over viewers with both classes, weighted by rows."""
    of_viewer, impressions = viewer_auc(labels, scores, draws.viewer, draws.weight.shape[1])
    counts = np.where(np.isnan(of_viewer), 0, impressions)
    weight = draws.weight.astype(np.float64)
    return _ratio(weight @ (np.nan_to_num(of_viewer) * counts), weight @ counts)


def viewer_auc(
    labels: Labels, scores: Scores, viewer: Int64[np.ndarray, " s"], viewers: int
) -> tuple[Float64[np.ndarray, " v"], Int64[np.ndarray, " v"]]:
    """Return the AUC of each viewer, NaN for rows of one class, and the number of rows of each viewer."""
    order = np.lexsort((scores, viewer))
    labels, scores, viewer = labels[order], scores[order], viewer[order]
    starts = np.flatnonzero(group_starts(viewer, scores))  # groups of ties
    ties = np.diff(starts, append=len(order))
    negatives = np.concatenate([[0], np.cumsum(~labels)])
    below = negatives[starts] - negatives[np.searchsorted(viewer, viewer[starts])]
    equal = negatives[starts + ties] - negatives[starts]
    won = np.bincount(viewer[starts], (ties - equal) * (below + equal / 2), viewers)
    positive = np.bincount(viewer, labels, viewers)
    impressions = np.bincount(viewer, minlength=viewers)
    return _ratio(won, positive * (impressions - positive)), impressions


def log_loss(labels: Labels, probabilities: Scores, draws: Draws) -> Figures:
    """Return the mean negative log-likelihood of the labels."""
    return draws.mean(_losses(labels, probabilities))


def relative_cross_entropy(labels: Labels, probabilities: Scores, rate: float, draws: Draws) -> Figures:
    """Return the relative cross-entropy: the reduction of the log-loss against a constant prediction `rate`, in %."""
    mine, constant = (_losses(labels, each) for each in (probabilities, np.full(len(labels), rate)))
    saved: Figures = 100 * (1 - draws.total(mine) / draws.total(constant))
    return saved


def calibration_error(labels: Labels, probabilities: Scores, draws: Draws) -> Figures:
    """Return the expected calibration error (Naeini et al. 2015): the mean distance of prediction and rate over bins.

    The error is never negative, so noise increases it, and a resample has more noise than the sample. Its interval may
    therefore lie above the estimate. Use it only to compare scorers.
    """
    rank = np.argsort(np.argsort(probabilities, kind="stable"), kind="stable")
    in_bin = rank * BINS // max(1, len(rank)) == np.arange(BINS)[:, np.newaxis]
    excess = draws.total((in_bin * (probabilities - labels)).T)
    error: Figures = np.abs(excess).sum(axis=1) / draws.total(np.ones(len(rank)))
    return error


def calibration_ratio(labels: Labels, probabilities: Scores, draws: Draws) -> Figures:
    """Return the sum of predictions over the sum of labels: 1 if calibrated, above 1 if predictions are too high."""
    return _ratio(draws.total(probabilities.astype(np.float64)), draws.total(labels.astype(np.float64)))


def ndcg(gains: Float[np.ndarray, "v c"], scores: Float[np.ndarray, "v c"], k: int) -> Float64[np.ndarray, " v"]:
    """Return NDCG@k of each viewer with linear gains (Järvelin & Kekäläinen 2002); NaN if all gains are 0.

    Args:
        gains: gains, at least 0; 0 for padding.
        scores: scores; -inf for padding.
        k: number of positions.

    """
    chosen = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    discounts = 1 / np.log2(np.arange(2, chosen.shape[1] + 2))
    reached = (np.take_along_axis(gains, chosen, axis=1) * discounts).sum(axis=1)
    return _ratio(reached, (-np.sort(-gains, axis=1)[:, :k] * discounts).sum(axis=1))


def recall(found: Int64[np.ndarray, "v k"], relevant: Bool[np.ndarray, "v p"]) -> Float64[np.ndarray, " v"]:
    """Return recall@k of each viewer: the share of relevant posts that were found; NaN without relevant posts.

    Args:
        found: distinct posts, as columns of `relevant`; -1 for padding.
        relevant: True for the relevant posts of each viewer.

    """
    hits = (np.take_along_axis(relevant, np.maximum(found, 0), axis=1) & (found >= 0)).sum(axis=1)
    return _ratio(hits, relevant.sum(axis=1))


def _losses(labels: Labels, probabilities: Scores) -> Float64[np.ndarray, " s"]:
    likelihood = np.where(labels, probabilities, 1 - probabilities.astype(np.float64))
    losses: Float64[np.ndarray, " s"] = -np.log(np.clip(likelihood, _LEAST, 1 - _LEAST))
    return losses


def _ratio(over: Float[np.ndarray, " x"], under: Float[np.ndarray, " x"]) -> Float64[np.ndarray, " x"]:
    """Return the quotient, NaN for a divisor of 0."""
    quotient: Float64[np.ndarray, " x"] = np.divide(over, under, out=np.full(len(under), np.nan), where=under > 0)
    return quotient
