"""Oracle benchmark: models against the known tastes of the generated world.

Glossary of shapes:

    u: benchmarked viewers
    c: candidates of each of them
    p: posts of the log
    v: viewers of the log
    r: rows of the log

All requests are made at the end of the world. The relevance of a post to a viewer is the viewer's propensity to act on
it (`gate` of the affinity); the probability of each kind of action is proportional to it. Ranking orders random
candidates and is measured by NDCG@35 (Järvelin & Kekäläinen 2002). Retrieval chooses among all posts and is measured by
the total relevance of its 100 posts over the largest possible total: expected recall@100 over its maximum. The oracle
has 1 in both.

Some posts are held out for a cold-start test: the log has no impressions of them. They are new posts by known authors,
in known words. Reposts have no words of their own, and deleted or labelled posts are not shown, so neither are
candidates.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64
from scipy import sparse

from infra.world import World
from infra.world.affinity import gate
from infra.world.messages import FEED_SURFACE
from phoenix.data.impressions import Log, log_of
from phoenix.data.point_in_time import PointInTimeCounts
from phoenix.data.slates import history_of, shown_posts, without_candidates
from phoenix.evaluation import metrics
from phoenix.evaluation.bootstrap import Draws, Estimate
from phoenix.evaluation.retrieval_baselines import factors, similarities
from phoenix.features.actions import IS_NEGATIVE
from phoenix.features.build import candidate_inputs
from phoenix.features.inputs import CandidateInputs, History, PostInputs
from phoenix.serving.engine import Phoenix
from thunder_ingest.events import (
    ACTION_INDEX,
    Engagement,
    Impression,
    PostCreated,
    PostDeleted,
    PostLabeled,
    surface_code,
)

RANKED: Final = 35
RETRIEVED: Final = 100
CANDIDATES: Final = 256
HELD_OUT: Final = 0.15
"""Share of held-out posts: too small to change the log much, but CANDIDATES of them in a world of thousands."""
_VIEWERS_AT_ONCE: Final = 16
_VALUED: Final = [ACTION_INDEX["favorite"], ACTION_INDEX["click"]]
"""Actions whose predicted probabilities are summed for the ranking: frequent ones that every post can get."""

Candidates = Int64[np.ndarray, "u c"]
Scores = Float[np.ndarray, "u p"]


class OracleBenchmark:
    """The benchmark of one world, with one draw of viewers, held-out posts and candidates.

    Args:
        world: source of the log and of the ground truth.
        viewers: number of benchmarked viewers, drawn at random from those with impressions.
        seed: seed of the draws.

    Attributes:
        log: training data: the world's log without impressions of held-out posts.
        viewer_id: benchmarked viewers, ascending.
        truth: relevance of each post to each of them, 0 … 1.
        candidates: candidates for ranking, as indices into the log's posts: `known` ones, and `new` (held-out) ones.

    Raises:
        ValueError: the world has too few posts to draw candidates from.

    """

    def __init__(self, world: World, viewers: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._requested_at = world.until_ms
        gone = {event.post_id for event in world.posts if isinstance(event, PostDeleted | PostLabeled)}
        eligible = [
            event.post_id
            for event in world.posts
            if isinstance(event, PostCreated) and event.kind != "repost" and event.post_id not in gone
        ]
        held_out = rng.choice(eligible, int(HELD_OUT * len(eligible)), replace=False)
        hidden = set(held_out.tolist())
        self.log: Log = log_of(
            event
            for event in world.events()
            if not (isinstance(event, Impression | Engagement) and event.post_id in hidden)
        )
        self._totals = PointInTimeCounts(self.log)
        posts = self.log.posts.post_id
        self._eligible = np.isin(posts, eligible)
        self._new = np.isin(posts, held_out)
        if min(self._new.sum(), (self._eligible & ~self._new).sum()) < CANDIDATES:
            raise ValueError(f"the world has too few posts to draw {CANDIDATES} known and {CANDIDATES} new ones")
        reading = np.intersect1d(world.viewers, self.log.viewer_id)
        self.viewer_id: Int64[np.ndarray, " u"] = np.sort(rng.permutation(reading)[:viewers])
        self.truth: Float32[np.ndarray, "u p"] = gate(world.affinity(self.viewer_id, posts))
        self._seen = self.matrix(np.arange(len(self.log.at)))[self._rows_of_viewers()].toarray() > 0
        self._draws = Draws.of(self.viewer_id, seed)
        self.candidates = {"known": self._drawn(rng, new=False), "new": self._drawn(rng, new=True)}

    def evaluate(self, rank: Callable[[Candidates], Float[np.ndarray, "u c"]], retrieve: Scores) -> dict[str, Estimate]:
        """Return the figures of a scorer; the oracle has 1 in each.

        Args:
            rank: function from candidates, as indices into the log's posts, to their scores.
            retrieve: scores of all posts for each viewer.

        """
        figures = {
            f"ndcg@{RANKED}_{name}": metrics.ndcg(np.take_along_axis(self.truth, posts, axis=1), rank(posts), RANKED)
            for name, posts in self.candidates.items()
        }
        figures[f"recall@{RETRIEVED}"] = self._recalled(retrieve, self._eligible)
        figures[f"recall@{RETRIEVED}_new"] = self._recalled(retrieve, self._new)
        return {name: Estimate.of(self._draws.mean(of_viewer)) for name, of_viewer in figures.items()}

    def evaluate_matrix(self, scores: Scores) -> dict[str, Estimate]:
        """Return the figures of a scorer that ranks and retrieves by the same scores."""
        return self.evaluate(lambda posts: np.take_along_axis(scores, posts, axis=1), scores)

    def evaluate_models(self, phoenix: Phoenix) -> dict[str, Estimate]:
        """Return the figures of the ranker and the retrieval model."""
        return self.evaluate(lambda posts: self._ranked(phoenix, posts), self._retrieved(phoenix))

    def references(self, seed: int = 0) -> dict[str, dict[str, Estimate]]:
        """Return the figures of the oracle, of random scores, and of the baselines; these learn from the whole log."""
        log, mine = self.log, self._rows_of_viewers()
        positive = np.flatnonzero(log.actions[:, ~IS_NEGATIVE].any(axis=1))
        engaged = self.matrix(positive)
        viewers, posts = factors(engaged)
        alike = (len(self.viewer_id), 1)
        scorers = {
            "oracle": self.truth,
            "matrix_factorisation": viewers[mine] @ posts.T,
            "co_engagement": (engaged[mine] @ similarities(engaged)).toarray(),
            "popularity": np.tile(np.bincount(log.post[positive], minlength=len(self._new)), alike),
            "recency": np.tile(log.posts.created_at, alike),
            "chance": np.random.default_rng(seed).random(self.truth.shape),
        }
        return {name: self.evaluate_matrix(scores.astype(np.float64)) for name, scores in scorers.items()}

    def matrix(self, rows: Int64[np.ndarray, " r"]) -> sparse.csr_matrix:
        """Return the binary matrix [v, p] of viewers and posts that occur together in these rows."""
        viewers = np.searchsorted(np.unique(self.log.viewer_id), self.log.viewer_id[rows])
        shape = len(np.unique(self.log.viewer_id)), len(self.log.posts.post_id)
        found = sparse.csr_matrix((np.ones(len(rows), np.float32), (viewers, self.log.post[rows])), shape)
        found.data[:] = 1
        return found

    def _rows_of_viewers(self) -> Int64[np.ndarray, " u"]:
        return np.searchsorted(np.unique(self.log.viewer_id), self.viewer_id)

    def _drawn(self, rng: np.random.Generator, *, new: bool) -> Candidates:
        """Draw CANDIDATES posts for each viewer; seen posts only if there are no others."""
        allowed = self._eligible & (self._new == new)
        keys = rng.random(self.truth.shape) + 2.0 * self._seen + 4.0 * ~allowed
        return np.argsort(keys, axis=1)[:, :CANDIDATES]

    def _recalled(self, scores: Scores, among: Bool[np.ndarray, " p"]) -> Float[np.ndarray, " u"]:
        """Return the total relevance of the RETRIEVED best-scored posts, over the largest possible total."""
        allowed = among & ~self._seen

        def relevance(by: Scores) -> Float[np.ndarray, " u"]:
            best = np.argsort(np.where(allowed, -by, np.inf), axis=1, kind="stable")[:, :RETRIEVED]
            total: Float[np.ndarray, " u"] = np.take_along_axis(self.truth, best, axis=1).sum(axis=1)
            return total

        share: Float[np.ndarray, " u"] = relevance(scores) / relevance(self.truth)
        return share

    def _ranked(self, phoenix: Phoenix, posts: Candidates) -> Float[np.ndarray, "u c"]:
        tokens, scores = phoenix.config.tokens, np.empty(posts.shape, np.float32)
        for start in range(0, len(posts), _VIEWERS_AT_ONCE):
            some = slice(start, start + _VIEWERS_AT_ONCE)
            predicted = phoenix.score(self._histories(phoenix, some), self._inputs(posts[some], tokens))
            scores[some] = predicted[..., _VALUED].sum(axis=-1)
        return scores

    def _retrieved(self, phoenix: Phoenix) -> Scores:
        posts = self.log.posts
        tokens = posts.tokens[:, : phoenix.config.tokens]
        vectors = phoenix.embed_posts(PostInputs(posts.author_id, tokens, posts.video_ms, posts.photos))
        scores: Scores = phoenix.embed_users(self._histories(phoenix, slice(None))) @ vectors.T
        return scores

    def _histories(self, phoenix: Phoenix, some: slice) -> History:
        slates = without_candidates(self.log, self.viewer_id[some], self._requested_at + 1)
        return history_of(self.log, slates, phoenix.config.history, phoenix.config.tokens)

    def _inputs(self, post: Candidates, tokens: int) -> CandidateInputs:
        moment = np.full(post.shape, self._requested_at)
        shown = shown_posts(self.log.posts, self._totals, post, moment)
        surface = np.full(len(post), surface_code(FEED_SURFACE), np.uint8)
        return candidate_inputs(shown, moment, moment, surface, np.ones(post.shape, bool), tokens)
