"""Training batches from a log of impressions.

The batch of a step is a function of the seed and the step. A resumed run therefore gets the same batches as an
uninterrupted one, and a checkpoint stores only the step.

Glossary of shapes (the letters of `phoenix.features.inputs`, and):

    r: rows of the log
    v: viewers
    p: posts that retrieval can find: published or shown before the end of the span, and no reposts
    n: posts that retrieval ranks in a batch
    w: rows with a positive retrieval weight
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import xxhash
from jaxtyping import Float32, Float64, Int32, Int64

from infra.ports.clock import HOUR_MS
from phoenix.data.impressions import JOIN_MS, Log
from phoenix.data.negatives import with_negatives
from phoenix.data.point_in_time import PointInTimeCounts
from phoenix.data.posts import Posts
from phoenix.data.slates import NO_ROW, Slates, candidates_of, history_of, in_runs, labels_of, rows_between
from phoenix.data.targets import RankingTargets, RetrievalTargets
from phoenix.features.actions import ACTION_COUNT, DWELL_TIME, IS_NEGATIVE, MAX_DWELL_MS
from phoenix.features.hashing import AUTHOR_SEED, HASHES, POST_SEED, TOKEN_SEED, USER_SEED, collisions
from phoenix.features.inputs import (
    CandidateRows,
    HistoryRows,
    PostInputs,
    PostRows,
    candidate_rows,
    history_rows,
    post_rows,
)
from phoenix.models.configs import ModelConfig, TrainingConfig
from thunder_ingest.events import ACTION_INDEX, ActionName

_UNLIMITED_MS: Final = 2**62
_ORDER, _SAMPLE, _DROPOUT = range(3)
"""Keys of independent random streams."""


class Batch(NamedTuple):
    """The examples of one training step."""

    history: HistoryRows
    candidates: CandidateRows
    ranking: RankingTargets
    posts: PostRows  # the n posts that retrieval ranks
    retrieval: RetrievalTargets


class Span(NamedTuple):
    """The span of a log whose impressions are examples, in epoch ms, and the start of each action's labels.

    With `earlier`, impressions before the span are examples too, as far as their labels are known. They come first,
    and once in an epoch.
    """

    since_ms: int
    until_ms: int
    labelled_since: Mapping[ActionName, int]
    earlier: bool = False


class Batches:
    """The batches of a training run.

    Args:
        log: source of examples and their histories. Nothing from `span.until_ms` on is read. Impressions of the last
            JOIN_MS before it are no examples, because their outcomes are incomplete.
        span: limits of the examples and their labels.
        model: sizes of the model's inputs.
        training: batch size, epochs, dropout rates and weights.

    Raises:
        ValueError: the span has no impression.

    """

    def __init__(self, log: Log, span: Span, model: ModelConfig, training: TrainingConfig) -> None:
        self._log = log = log.before(span.until_ms)
        self._span, self._training = span, training
        self.rows = rows_between(log, 0 if span.earlier else span.since_ms, span.until_ms - JOIN_MS)
        if not (log.at[self.rows] >= span.since_ms).any():
            raise ValueError(
                "the log has no impression in this span, up to half an hour before its end, so there are no examples"
            )
        longest = int(np.count_nonzero(log.posts.tokens, axis=1).max())
        # positions that are padding in every text cost time and add nothing
        self._model = replace(model, tokens=max(1, min(model.tokens, longest)))
        self._epoch, self._slates = 0, self._slates_of(0)
        self.steps_per_epoch = max(1, len(self._slates.viewer_id) // training.batch)
        self.steps = self.steps_per_epoch * training.epochs
        self._totals = PointInTimeCounts(log, span.labelled_since)
        self._shown = log.posts.original(log.post, log.at)  # retrieval finds the originals of reposts
        self._posts = self._known_posts()
        positive = self._shown[self.rows[self._weights(self.rows) > 0]]
        self._corpus = _Corpus(log.posts, positive, self._posts, self._model)

    @property
    def description(self) -> dict[str, Any]:
        """The training data, for the model card. Equal descriptions mean equal batches."""
        log, posts = self._log, self._log.posts
        digest = xxhash.xxh3_64()
        of_versions = posts.versions._replace(post=posts.post_id[posts.versions.post])
        for column in (log.events, *posts.published, *of_versions):
            digest.update(np.ascontiguousarray(column).data)
        digest.update(repr(log.surfaces).encode())
        return self._span._asdict() | {
            "labelled_since": dict(self._span.labelled_since),
            "max_post_age_ms": posts.max_age_ms,
            "examples": len(self.rows),
            "viewers": len(np.unique(log.viewer_id[self.rows])),
            "posts": len(np.unique(log.post[self.rows])),
            "earlier_impressions": int(np.count_nonzero(log.at < self._span.since_ms)),
            "collisions": self._collisions(np.unique(log.viewer_id)),
            "digest": digest.hexdigest(),
        }

    def _collisions(self, viewers: Int64[np.ndarray, " v"]) -> dict[str, dict[str, float]]:
        """The share of ids of each table that share at least one of their rows, and that share all of them."""
        model, posts = self._model, self._log.posts
        tables = {
            "viewers": (viewers, model.user_rows, HASHES, USER_SEED),
            "posts": (posts.post_id[self._posts], model.post_rows, HASHES, POST_SEED),
            "authors": (posts.author_id[self._posts], model.author_rows, HASHES, AUTHOR_SEED),
            "tokens": (posts.tokens[self._posts], model.token_rows, 1, TOKEN_SEED),
        }
        return {
            name: dict(zip(("one_shared", "all_shared"), collisions(*table), strict=True))
            for name, table in tables.items()
        }

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        epoch, ordinal = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._slates = epoch, self._slates_of(epoch)
        size = self._training.batch
        of_step = np.arange(ordinal * size, (ordinal + 1) * size) % len(self._slates.viewer_id)
        return self._batch(self._slates.take(of_step), step)

    def _slates_of(self, epoch: int) -> Slates:
        """Return an epoch's slates in random order; those with all labels come last."""
        training = self._training
        rng = np.random.default_rng([training.seed, _ORDER, epoch])
        complete = self._log.at[self.rows] >= max([self._span.since_ms, *self._span.labelled_since.values()])
        passes = [(self.rows[~complete], _UNLIMITED_MS)] if not complete.all() else []
        repeats = training.complete_passes if passes else 1
        passes += [(self.rows[complete], training.span_hours * HOUR_MS)] * (repeats if complete.any() else 0)
        cut = [in_runs(self._log, rows, training.candidates, span_ms, rng) for rows, span_ms in passes]
        shuffled = [slates.take(rng.permutation(len(slates.viewer_id))) for slates in cut]
        return Slates(*(np.concatenate(columns) for columns in zip(*shuffled, strict=True)))

    def _batch(self, slates: Slates, step: int) -> Batch:
        model, seed = self._model, self._training.seed
        history = history_of(self._log, slates, model.history, model.tokens, self._span.labelled_since)
        candidates = candidates_of(self._log, self._totals, slates, model.tokens)
        dropout = np.random.default_rng([seed, _DROPOUT, step])
        sample = np.random.default_rng([seed, _SAMPLE, step])
        posts, retrieval = self._corpus.choice(
            self._shown[slates.rows],
            self._weights(slates.rows) * slates.mask,
            self._training.sampled_posts,
            sample,
        )
        ranked = candidate_rows(model, candidates, 0, slates.rows.shape[1]), self._ranking(slates)
        if self._training.negative_weight:
            shown = np.where(slates.mask, self._shown[slates.rows], NO_ROW)
            ranked = with_negatives(slates.viewer_id, shown, *ranked, self._training.negative_weight)
        return Batch(*self._dropped(history_rows(model, history), ranked[0], dropout), ranked[1], posts, retrieval)

    def _ranking(self, slates: Slates) -> RankingTargets:
        done, known = labels_of(self._log, slates, self._span.labelled_since)
        labels = done.astype(np.float32)
        labels[..., DWELL_TIME] = np.minimum(self._log.dwell_ms[slates.rows] / MAX_DWELL_MS, 1.0)
        return RankingTargets(labels, known.astype(np.float32))

    def _known_posts(self) -> Int64[np.ndarray, " p"]:
        """Return the posts that retrieval can find, ascending."""
        known = (self._log.posts.created_at > 0) & (self._log.posts.source_id == 0)
        known[self._shown] = True
        return np.flatnonzero(known)

    def _weights(self, rows: Int64[np.ndarray, "*r"]) -> Float32[np.ndarray, "*r"]:
        """Return the retrieval weight of each row: its greatest action weight, 0 if an action is negative."""
        of_action = np.zeros(ACTION_COUNT, np.float32)
        for action, weight in self._training.positive_weights.items():
            of_action[ACTION_INDEX[action]] = weight
        done = self._log.actions[rows]
        weights = np.maximum(np.max(done * of_action, axis=-1), np.float32(self._training.shown_weight))
        return np.where((done & IS_NEGATIVE).any(axis=-1), np.float32(0), weights)

    def _dropped(
        self, history: HistoryRows, candidates: CandidateRows, rng: np.random.Generator
    ) -> tuple[HistoryRows, CandidateRows]:
        """Apply id dropout to viewers and posts, and history dropout to positions, against overfitting."""

        def without(ids: Int32[np.ndarray, "*n K"], share: float) -> Int32[np.ndarray, "*n K"]:
            return np.where(rng.random((*ids.shape[:-1], 1)) < share, np.int32(0), ids) if share else ids

        posts = self._training.post_dropout
        history = history._replace(user=without(history.user, self._training.viewer_dropout))
        history = history._replace(post=without(history.post, posts))
        candidates = candidates._replace(post=without(candidates.post, posts))
        if self._training.history_dropout:
            kept = rng.random(history.mask.shape) >= self._training.history_dropout
            history = history._replace(mask=history.mask & kept)
        return history, candidates


class _Corpus:
    """The posts that retrieval ranks, with the log-Q correction of sampled softmax (Yi et al. 2019).

    Q is the probability that a batch contains the post.

    Args:
        posts: the posts of the log.
        positives: the post of each row with a positive retrieval weight.
        known: posts that can be sampled, ascending.
        model: sizes of the model's inputs.

    """

    def __init__(
        self, posts: Posts, positives: Int64[np.ndarray, " w"], known: Int64[np.ndarray, " p"], model: ModelConfig
    ) -> None:
        self._rows = post_rows(model, PostInputs(posts.author_id, posts.tokens, posts.video_ms, posts.photos))
        self._known = known
        self._share = np.bincount(positives, minlength=len(posts.post_id)) / max(1, len(positives))

    def choice(
        self,
        shown: Int64[np.ndarray, "B C"],
        weights: Float32[np.ndarray, "B C"],
        sampled: int,
        rng: np.random.Generator,
    ) -> tuple[PostRows, RetrievalTargets]:
        """Return the positive posts of a batch and `sampled` others, or all posts if there are no more than that."""
        size = shown.size + sampled
        if size >= len(self._known):
            chosen, log_q = self._known, np.zeros(len(self._known))
        else:
            chosen, log_q = self._sample(shown[weights > 0], size, sampled, rng)
        place = np.searchsorted(chosen, np.where(weights > 0, shown, chosen[0])).astype(np.int32)
        targets = RetrievalTargets(place, weights, log_q.astype(np.float32))
        return PostRows(*(column[chosen] for column in self._rows)), targets

    def _sample(
        self, positives: Int64[np.ndarray, " w"], size: int, sampled: int, rng: np.random.Generator
    ) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Return the positive and the sampled posts, ascending, with log Q; padded to `size` with log Q = -inf."""
        chosen = np.union1d(positives, rng.choice(self._known, sampled, replace=False))
        q = 1 - (1 - self._share[chosen]) ** len(positives) * (1 - sampled / len(self._known))
        filling = size - len(chosen)
        return np.pad(chosen, (0, filling), mode="edge"), np.pad(np.log(q), (0, filling), constant_values=-np.inf)
