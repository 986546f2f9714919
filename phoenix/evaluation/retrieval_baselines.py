"""Retrieval: which of the posts that a viewer went on to engage with are among the k that were found beforehand.

Glossary of shapes:

    v: viewers of the log
    u: viewers who are asked for: those who engaged with something new to them
    p: posts of the log
    e: width of vectors
    k: posts found for each viewer, in no particular order, -1 where there are no more

What a viewer was shown before `since_ms` is never found, and finding it would not count. Every post of the log that was
published before `until_ms` can be found, also one that nobody has seen.
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
"""Kept of each post: in the log at hand a fifth of them finds a twentieth less, all of them no more."""
FACTORS: Final = 64
WEIGHT: Final = 10.0
"""Of a post that was seen, where one that was not has 1."""
REGULARISATION: Final = 1.0
ITERATIONS: Final = 15
_BLOCK: Final = 1_024  # viewers at a time, so that scores of all posts fit in memory

Found = Int64[np.ndarray, "u k"]


class RetrievalTask:
    """Who is asked for, what each has seen, what each wanted; and the baselines.

    What was shown, not what was engaged with, is what collaborative filtering learns from: it is ten times as much, and
    whoever ranked the log chose it for the viewer.

    Args:
        split: of a log.
        action: that makes a post wanted.

    Attributes:
        viewer_id: who is asked for, ascending.
        wanted: which posts each of them engaged with that were new to them.

    Raises:
        ValueError: nobody wanted anything.

    """

    def __init__(self, split: Split, action: ActionName) -> None:
        self._split, self._action = split, action
        ids, self._viewer = np.unique(split.log.viewer_id, return_inverse=True)
        self._posts = len(split.log.posts.post_id)
        self._seen = self._shown(split.past)
        judged = split.labelled(action, split.judged)
        engaged = self._shown(judged[split.labels(action, judged)])
        new = engaged > self._seen
        self._asked = np.flatnonzero(new.sum(axis=1))
        if not len(self._asked):
            raise ValueError(f"no {action} on a post that was new to its viewer lies in the span that is judged")
        self.viewer_id: Int64[np.ndarray, " u"] = ids[self._asked]
        self.wanted: Bool[np.ndarray, "u p"] = new[self._asked].toarray()

    def nearest(self, viewers: Float[np.ndarray, "u e"], posts: Float[np.ndarray, "p e"], k: int) -> Found:
        """The posts whose vectors have the greatest products with the viewer's.

        Rounded from float64: posts of one vector have one product then, however many others it is computed beside.
        """
        wide = viewers.astype(np.float64), posts.astype(np.float64)
        return self._best(lambda rows: (wide[0][rows] @ wide[1].T).astype(np.float32), k)

    def baselines(self, k: int) -> dict[str, Found]:
        """What each baseline finds, by its name."""
        alike, (viewers, posts) = similarities(self._seen), factors(self._seen)
        return {
            "popular_the_day_before": self._alike_for_all(self._engaged_the_day_before(), k),
            "newest": self._alike_for_all(self._split.log.posts.created_at, k),
            "item_item": self._best(lambda rows: (self._seen[self._asked[rows]] @ alike).toarray(), k),
            "als": self.nearest(viewers[self._asked], posts, k),
        }

    def _shown(self, rows: Rows) -> sparse.csr_matrix:
        """Which posts [v, p] stand in some rows: 1, however often."""
        where = self._viewer[rows], self._split.log.post[rows]
        shown = sparse.csr_matrix((np.ones(len(rows), np.float32), where), (int(self._viewer.max()) + 1, self._posts))
        shown.data[:] = 1
        return shown

    def _engaged_the_day_before(self) -> Int64[np.ndarray, " p"]:
        split = self._split
        rows = split.labelled(self._action, split.past)
        rows = rows[split.log.at[rows] >= split.since_ms - DAY_MS]
        return np.bincount(split.log.post[rows[split.labels(self._action, rows)]], minlength=self._posts)

    def _alike_for_all(self, scores: Real[np.ndarray, " p"], k: int) -> Found:
        return self._best(lambda rows: np.broadcast_to(scores, (len(rows), self._posts)), k)

    def _best(self, scores_of: Callable[[Rows], Real[np.ndarray, "b p"]], k: int) -> Found:
        """The k best-scored new posts, from the scores of a few of the viewers who are asked for at a time."""
        published = self._split.log.posts.created_at < self._split.until_ms
        found = np.full((len(self._asked), k), -1)
        for start in range(0, len(found), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(found)))
            can_be_found = published & (self._seen[self._asked[rows]].toarray() == 0)
            scores = np.where(can_be_found, scores_of(rows), -np.inf)
            best = np.argpartition(-scores, min(k, self._posts) - 1, axis=1)[:, :k]
            is_found = np.isfinite(np.take_along_axis(scores, best, axis=1))
            found[rows, : best.shape[1]] = np.where(is_found, best, -1)
        return found


def similarities(shown: sparse.csr_matrix) -> sparse.csr_matrix:
    """Which posts go to the same viewers: cosines [p, p] of the columns of [v, p], the greatest of each post."""
    model = CosineRecommender(K=NEIGHBOURS, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParameterWarning)  # about a matrix that the library itself made
        model.fit(shown, show_progress=False)
    return model.similarity


def factors(shown: sparse.csr_matrix) -> tuple[Float32[np.ndarray, "v 64"], Float32[np.ndarray, "p 64"]]:
    """Vectors of viewers and posts whose products come near to [v, p], by alternating least squares."""
    with threadpool_limits(1, "blas"):  # the library asks for it: its threads would each start as many again
        model = AlternatingLeastSquares(
            FACTORS, regularization=REGULARISATION, alpha=WEIGHT, iterations=ITERATIONS, num_threads=1, random_state=1
        )
        model.fit(shown, show_progress=False)
    return model.user_factors, model.item_factors
