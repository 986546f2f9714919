"""In-batch negatives of the ranker: posts that were shown to another viewer of the batch.

Shown posts were selected for their viewer (selection bias), so they seldom include a poor match. A post shown to
another viewer has the same distribution of popularity, age and quality, and differs in the match with the viewer's
taste. These negatives therefore teach the ranker tastes.

Shapes: see `phoenix.features.inputs`; B counts slates.
"""

from typing import Final

import numpy as np
from jaxtyping import Int64

from phoenix.data.targets import RankingTargets
from phoenix.features.actions import ACTION_COUNT, DWELL_TIME, IS_NEGATIVE
from phoenix.features.inputs import CandidateRows

_OF_REQUEST: Final = ("hour", "weekday")
"""Columns that a negative takes from its new slate: another viewer's time would betray it."""
_UNKNOWN: Final = IS_NEGATIVE | (np.arange(ACTION_COUNT) == DWELL_TIME)
"""Labels without a value for a post that was not shown: negative feedback and dwell time."""


def with_negatives(
    viewer_id: Int64[np.ndarray, " B"],
    post: Int64[np.ndarray, "B C"],
    candidates: CandidateRows,
    targets: RankingTargets,
    weight: float,
) -> tuple[CandidateRows, RankingTargets]:
    """Append the candidates of the previous slate to each slate, with all labels 0.

    Negatives keep their age and counts from their own slate. With a recomputed age, a post younger than the request
    would have age 0, and the ranker could recognise it.

    Args:
        viewer_id: viewer of each slate. A slate whose previous slate has the same viewer gets no negatives.
        post: posts of the candidates. A post that is in both slates is no negative.
        candidates: candidates of the slates, [B, C].
        targets: labels and weights of the candidates.
        weight: weight of a negative, relative to the weight of a candidate.

    Returns:
        Candidates [B, 2C] and their targets.

    """
    of_others = (np.roll(viewer_id, 1) != viewer_id)[:, np.newaxis]
    of_others = of_others & (np.roll(post, 1, axis=0)[:, :, np.newaxis] != post[:, np.newaxis]).all(axis=2)
    weights = np.roll(targets.weights, 1, axis=0) * of_others[..., np.newaxis] * ~_UNKNOWN
    labels = np.concatenate([targets.labels, np.zeros_like(targets.labels)], axis=1)
    both = RankingTargets(labels, np.concatenate([targets.weights, weights * np.float32(weight)], axis=1))
    columns = {
        name: column
        if name == "surface"
        else np.concatenate([column, column if name in _OF_REQUEST else np.roll(column, 1, axis=0)], axis=1)
        for name, column in candidates._asdict().items()
    }
    return CandidateRows(**columns), both
