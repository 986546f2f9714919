"""The retrieval task, and its baselines: popularity, recency, item-item filtering and matrix factorisation.

Glossary of shapes:

    v: viewers of the log
    u: evaluated viewers: those with a relevant post
    b: some of the u viewers
    p: posts of the log
    E: width of vectors
    k: posts found for each viewer, unordered, padded with -1

A post is relevant if the viewer engaged with it in the evaluated span, and had no impression of it before `since_ms`.
Posts with such an impression are never found. All other posts of the log published before `until_ms` can be found, also
posts without impressions.
"""

import warnings
from collections.abc import Callable
from typing import Final

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
from implicit.utils import ParameterWarning
from jaxtyping import Bool, Float, Float32, Int64, Real
from scipy import sparse
from threadpoolctl import threadpool_limits

from infra.ports.clock import DAY_MS
from phoenix.evaluation.split import Rows, Split
from thunder_ingest.events import ActionName

NEIGHBOURS: Final = 1_000
"""Nearest posts kept for each post. On KuaiRand a fifth of them lowers recall by a twentieth; more do not raise it."""
FACTORS: Final = 64
WEIGHT: Final = 10.0
"""Confidence weight of a shown post; a post that was not shown has 1."""
REGULARISATION: Final = 1.0
ITERATIONS: Final = 15
_BLOCK: Final = 1_024  # viewers per block, so that scores of all posts fit in memory

Found = Int64[np.ndarray, "u k"]


class RetrievalTask:
    """The retrieval task of a split: evaluated viewers, their relevant posts and the baselines.

    Collaborative filtering learns from impressions, not from engagements: there are ten times as many, and the ranking
    of the log selected them for the viewer.

    Args:
        split: training rows and evaluated rows.
        action: action that makes a post relevant.

    Attributes:
        viewer_id: evaluated viewers, ascending.
        relevant: True for the relevant posts of each of them.

    Raises:
        ValueError: no viewer has a relevant post.

    """

    def __init__(self, split: Split, action: ActionName) -> None:
        self._split, self._action = split, action
        ids, self._viewer = np.unique(split.log.viewer_id, return_inverse=True)
        self._posts = len(split.log.posts.post_id)
        self._seen = self._shown(split.past)
        evaluated = split.labelled(action, split.evaluated)
        engaged = self._shown(evaluated[split.labels(action, evaluated)])
        new = engaged > self._seen
        self._evaluated = np.flatnonzero(new.sum(axis=1))
        if not len(self._evaluated):
            raise ValueError(f"the evaluated span has no {action} on a post that was new to its viewer")
        self.viewer_id: Int64[np.ndarray, " u"] = ids[self._evaluated]
        self.relevant: Bool[np.ndarray, "u p"] = new[self._evaluated].toarray()

    def nearest(self, viewers: Float[np.ndarray, "u E"], posts: Float[np.ndarray, "p E"], k: int) -> Found:
        """Return the posts with the largest dot products for each viewer.

        Products are computed in float64 and rounded to float32, so that equal vectors have equal products in blocks of
        any size.
        """
        wide = viewers.astype(np.float64), posts.astype(np.float64)
        return self._best(lambda rows: (wide[0][rows] @ wide[1].T).astype(np.float32), k)

    def baselines(self, k: int) -> dict[str, Found]:
        """Return the posts found by each baseline, by its name."""
        alike, (viewers, posts) = similarities(self._seen), factors(self._seen)
        return {
            "popular_the_day_before": self._same_for_all(self._engaged_the_day_before(), k),
            "newest": self._same_for_all(self._split.log.posts.created_at, k),
            "item_item": self._best(lambda rows: (self._seen[self._evaluated[rows]] @ alike).toarray(), k),
            "als": self.nearest(viewers[self._evaluated], posts, k),
        }

    def _shown(self, rows: Rows) -> sparse.csr_matrix:
        """Return the binary matrix [v, p] of viewers and posts that occur together in these rows."""
        where = self._viewer[rows], self._split.log.post[rows]
        shown = sparse.csr_matrix((np.ones(len(rows), np.float32), where), (int(self._viewer.max()) + 1, self._posts))
        shown.data[:] = 1
        return shown

    def _engaged_the_day_before(self) -> Int64[np.ndarray, " p"]:
        split = self._split
        rows = split.labelled(self._action, split.past)
        rows = rows[split.log.at[rows] >= split.since_ms - DAY_MS]
        return np.bincount(split.log.post[rows[split.labels(self._action, rows)]], minlength=self._posts)

    def _same_for_all(self, scores: Real[np.ndarray, " p"], k: int) -> Found:
        return self._best(lambda rows: np.broadcast_to(scores, (len(rows), self._posts)), k)

    def _best(self, scores_of: Callable[[Rows], Real[np.ndarray, "b p"]], k: int) -> Found:
        """Return the k best-scored posts new to each viewer; scores are computed for blocks of viewers."""
        published = self._split.log.posts.created_at < self._split.until_ms
        found = np.full((len(self._evaluated), k), -1)
        for start in range(0, len(found), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(found)))
            can_be_found = published & (self._seen[self._evaluated[rows]].toarray() == 0)
            scores = np.where(can_be_found, scores_of(rows), -np.inf)
            best = np.argpartition(-scores, min(k, self._posts) - 1, axis=1)[:, :k]
            is_found = np.isfinite(np.take_along_axis(scores, best, axis=1))
            found[rows, : best.shape[1]] = np.where(is_found, best, -1)
        return found


def similarities(shown: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the item-item similarities (Sarwar et al. 2001): largest cosines [p, p] of the columns of [v, p]."""
    model = CosineRecommender(K=NEIGHBOURS, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParameterWarning)  # about a matrix that the library itself creates
        model.fit(shown, show_progress=False)
    return model.similarity


def factors(shown: sparse.csr_matrix) -> tuple[Float32[np.ndarray, "v 64"], Float32[np.ndarray, "p 64"]]:
    """Factorise [v, p] into vectors of viewers and posts by ALS for implicit feedback (Hu, Koren, Volinsky 2008)."""
    with threadpool_limits(1, "blas"):  # the library warns otherwise: each of its threads would start BLAS threads
        model = AlternatingLeastSquares(
            FACTORS, regularization=REGULARISATION, alpha=WEIGHT, iterations=ITERATIONS, num_threads=1, random_state=1
        )
        model.fit(shown, show_progress=False)
    return model.user_factors, model.item_factors
