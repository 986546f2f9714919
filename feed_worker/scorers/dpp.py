"""DPPScorer: a feed's posts are chosen together, by score and by how they differ."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.ports import ModelEngine
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Scorer
from phoenix.index.retrieval_index import VectorIndex

MIN_VOLUME = 1e-6


class DPPScorer(Scorer):
    """Re-ranks by a determinantal point process: of the best `dpp_pool` posts, as many as are to be selected.

    With q a post's score as a share of the best one's, f = exp(alpha q) and alpha = theta / (2 (1 - theta)), posts i
    and j have the kernel L_ij = f_i f_j cos(e_i, e_j), e their retrieval vectors. Posts are taken greedily, each time
    the one that adds most to the determinant (Chen et al., "Fast Greedy MAP Inference for Determinantal Point Process",
    2018). What is taken keeps its score; everything else gets 0. So this decides what is in the feed, and not its
    order.

    A repost has the vector of what is read. A post without a vector, too new or of another model version, differs from
    all others: the published system gives it a random direction, which in many dimensions is nearly that, but another
    one each time.
    """

    def __init__(self, index: VectorIndex, model: ModelEngine) -> None:
        self._index, self._model = index, model

    def enable(self, query: Query) -> bool:
        """Where there is a pool."""
        return query.parameters.dpp_pool > 0

    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Candidates]:
        """Set `dpp`; without any score there is nothing to choose by, and all stay."""
        return [
            each.with_columns(dpp=self._chosen(query, each)) for query, each in zip(queries, candidates, strict=True)
        ]

    def _chosen(self, query: Query, candidates: Candidates) -> NDArray[np.float64]:
        score, ranking = candidates.score, candidates.ranking()
        pool = ranking[score[ranking] > 0][: query.parameters.dpp_pool]
        if not len(pool):
            return np.ones(len(candidates))
        vectors = self._index.vectors(candidates.original_id[pool], self._model.version)
        k = query.parameters.selected_for(query.size)
        taken = greedy_map(strengths(score[pool], query.parameters.dpp_theta), vectors, k)
        chosen = np.zeros(len(candidates))
        chosen[pool[taken]] = 1.0
        return chosen


def strengths(scores: Float64[np.ndarray, " n"], theta: float) -> Float64[np.ndarray, " n"]:
    """The f of positive scores, best first: what theta makes of quality."""
    return np.asarray(np.exp(theta / (2 * (1 - theta)) * scores / scores[0]))


def greedy_map(
    strengths: Float64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n d"], k: int
) -> Int64[np.ndarray, " m"]:
    """At most k positions, each the one that adds most volume to those before; the first of equal ones.

    A row of the Cholesky factor of the chosen ones' kernel is added with each: O(k n (d + k)).

    Args:
        strengths: f, above 0.
        vectors: of any length; one of zeros is orthogonal to all others.
        k: positions wanted; fewer come where no more would add more than `MIN_VOLUME`.

    """
    units = vectors.astype(np.float64)  # in fp32 a vector is not quite parallel to its copy
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
