"""Negatives of the ranker: posts that a viewer was not shown.

What is shown was chosen for its viewer, so whoever learns from nothing else never learns what does not suit. Posts that
another viewer of the batch was shown are as popular, as old and as good as those, and differ in whom they suit: to tell
the two apart is to know tastes.

Glossary of shapes:

    B: slates
    C: candidates of each slate
    A: the 19 actions
    K: hashed rows per id
"""

from typing import Final

import numpy as np
from jaxtyping import Int64

from phoenix.features.actions import ACTION_COUNT, DWELL_TIME, IS_NEGATIVE
from phoenix.features.inputs import CandidateRows
from phoenix.training.losses import RankingTargets

_SAYS_NOTHING: Final = IS_NEGATIVE | (np.arange(ACTION_COUNT) == DWELL_TIME)
"""What is not known of a post that was not shown: whether it would be complained about, and how long it would hold."""


def with_negatives(
    viewer_id: Int64[np.ndarray, " B"],
    post: Int64[np.ndarray, "B C"],
    candidates: CandidateRows,
    targets: RankingTargets,
    weight: float,
) -> tuple[CandidateRows, RankingTargets]:
    """Behind the candidates of each slate those of the slate before it, on which nothing follows.

    They are asked about as they stood there, in age and counts: one younger than the request would give itself away.

    Args:
        viewer_id: of the slates; where two in a row are of one viewer, there are no negatives.
        post: which posts the candidates are; one that is in both slates is no negative.
        candidates: of the slates, [B, C].
        targets: what came of them.
        weight: of a negative, where a candidate has 1.

    Returns:
        Candidates [B, 2C] and their targets.

    """
    of_others = (np.roll(viewer_id, 1) != viewer_id)[:, np.newaxis]
    of_others = of_others & (np.roll(post, 1, axis=0)[:, :, np.newaxis] != post[:, np.newaxis]).all(axis=2)
    weights = np.roll(targets.weights, 1, axis=0) * of_others[..., np.newaxis] * ~_SAYS_NOTHING
    labels = np.concatenate([targets.labels, np.zeros_like(targets.labels)], axis=1)
    both = RankingTargets(labels, np.concatenate([targets.weights, weights * np.float32(weight)], axis=1))
    columns = {
        name: column if name == "surface" else np.concatenate([column, np.roll(column, 1, axis=0)], axis=1)
        for name, column in candidates._asdict().items()
    }
    return CandidateRows(**columns), both
