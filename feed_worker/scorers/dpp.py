"""DPPScorer: re-ranking for score and diversity by a determinantal point process (DPP)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy.typing import NDArray

from feed_worker.candidates.columns import NEW, Candidates
from feed_worker.candidates.ports import ModelEngine
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Scorer
from phoenix.index.retrieval_index import VectorIndex

MIN_VOLUME = 1e-6


class DPPScorer(Scorer):
    """Selects, from the best `dpp_pool` posts, a subset of high score and low similarity.

    The model is a DPP (Kulesza & Taskar, "Determinantal Point Processes for Machine Learning", 2012) with the kernel
    L_ij = f_i f_j cos(e_i, e_j): e are retrieval vectors, f = exp(alpha q), q is a post's score divided by the best
    score, alpha = theta / (2 (1 - theta)). The subset is the greedy MAP estimate (Chen et al., "Fast Greedy MAP
    Inference for Determinantal Point Process", 2018). Selected posts keep their score and all others get 0, so the DPP
    decides membership of the feed, not its order. Mirrors the published VMRanker.

    A repost has the vector of its source. A post without a vector, because it is new or the model was swapped, is
    orthogonal to all others. The published system gives it a random direction, which is nearly orthogonal in many
    dimensions, but different each time. Repeats are not in the pool and stay: they rank after all new posts.
    """

    def __init__(self, index: VectorIndex, model: ModelEngine) -> None:
        self._index, self._model = index, model

    def enable(self, query: Query) -> bool:
        """True if `dpp_pool` is above 0."""
        return query.parameters.dpp_pool > 0

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Candidates]:
        """Set `dpp` to 1 for selected posts and repeats, and 0 for others; 1 for all if no new post has a score."""
        return [
            each.with_columns(dpp=self._chosen(query, each)) for query, each in zip(queries, candidates, strict=True)
        ]

    def _chosen(self, query: Query, candidates: Candidates) -> NDArray[np.float64]:
        ranking, is_new = candidates.ranking(), candidates.repeat == NEW
        score = candidates.score
        pool = ranking[(score > 0)[ranking] & is_new[ranking]][: query.parameters.dpp_pool]
        if not len(pool):
            return np.ones(len(candidates))
        vectors = self._index.vectors(candidates.original_id[pool], self._model.version)
        k = query.parameters.selected_for(query.size)
        taken = greedy_map(strengths(score[pool], query.parameters.dpp_theta), vectors, k)
        chosen = np.where(is_new, 0.0, 1.0)
        chosen[pool[taken]] = 1.0
        return chosen


def strengths(scores: Float64[np.ndarray, " n"], theta: float) -> Float64[np.ndarray, " n"]:
    """The f of positive scores, best first."""
    return np.asarray(np.exp(theta / (2 * (1 - theta)) * scores / scores[0]))


def greedy_map(
    strengths: Float64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n d"], k: int
) -> Int64[np.ndarray, " m"]:
    """Greedy MAP inference for a DPP, with an incremental Cholesky factor (Chen et al., 2018): O(k n (d + k)).

    Args:
        strengths: f, above 0.
        vectors: of any norm; a vector of zeros is orthogonal to all others.
        k: the maximum number of positions.

    Returns:
        positions in the order of selection: each adds the largest marginal volume to those before; the first of equal
        ones. Ends early if no position adds more than `MIN_VOLUME`.

    """
    units = vectors.astype(np.float64)  # rounding in fp32 makes a vector and its copy not quite parallel
    lengths = np.linalg.norm(units, axis=1, keepdims=True)
    units /= np.where(lengths > 0, lengths, 1.0)
    volumes = strengths**2
    factors = np.zeros((min(k, len(strengths)), len(strengths)))
    taken = np.zeros(len(factors), np.int64)
    for step, row in enumerate(factors):
        best = int(np.argmax(volumes))
        if volumes[best] <= MIN_VOLUME:
            return taken[:step]
        taken[step] = best
        kernel = strengths[best] * strengths * (units @ units[best])
        row[:] = (kernel - factors[:step, best] @ factors[:step]) / np.sqrt(volumes[best])
        volumes -= row**2
        volumes[best] = -np.inf
    return taken
