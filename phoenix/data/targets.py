"""The targets of a batch: the labels of the ranker, and the positive posts of the retrieval model.

Shapes: see `phoenix.features.inputs`; B counts slates, n the posts among which retrieval chooses.
"""

from typing import NamedTuple

from jaxtyping import Float32, Int32

from phoenix.features.inputs import Column


class RankingTargets(NamedTuple):
    """The labels of the candidates."""

    labels: Float32[Column, "B C A"]  # 1 for an action, 0 for none; last the dwell time, as a share of MAX_DWELL_MS
    weights: Float32[Column, "B C A"]  # 0 for an unknown label


class RetrievalTargets(NamedTuple):
    """The positive posts of each slate, as indices into the n posts."""

    post: Int32[Column, "B C"]
    weights: Float32[Column, "B C"]  # 0 without a positive post
    log_q: Float32[Column, " n"]  # logarithm of the probability that the batch contains a post; -inf for padding
