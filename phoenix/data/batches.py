"""A log as batches to be learned from: which one comes at which step depends on the seed and the step alone.

Glossary of shapes:

    B: slates of a batch
    C: candidates of each slate
    A: the 19 actions
    n: posts that retrieval chooses from
    k: posts that are known at the end of the span

So a run that goes on from a step sees what it would have seen, and nothing but the step need be kept.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import xxhash
from jaxtyping import Float32, Float64, Int32, Int64

from infra.ports.clock import HOUR_MS
from phoenix.data.impressions import Log
from phoenix.data.negatives import with_negatives
from phoenix.data.point_in_time import Totals
from phoenix.data.slates import NO_ROW, Slates, candidates_of, history_of, in_runs, labels_of, rows_between
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
from phoenix.training.losses import RankingTargets, RetrievalTargets
from thunder_ingest.events import ACTION_INDEX, ActionName

_ENDLESS_MS: Final = 2**62
_ORDER, _SAMPLE, _DROPOUT = range(3)
"""What chance is asked for; each has a stream of its own."""


class Batch(NamedTuple):
    """What one step learns from."""

    history: HistoryRows
    candidates: CandidateRows
    ranking: RankingTargets
    posts: PostRows  # what retrieval chooses from, n
    retrieval: RetrievalTargets


class Span(NamedTuple):
    """Which impressions are examples, and which of their labels are known.

    With `earlier`, those before the span are met first, once, as far as their labels are known.
    """

    since_ms: int
    until_ms: int
    labelled_since: Mapping[ActionName, int]
    earlier: bool = False


class Batches:
    """The batches of a training run.

    Args:
        log: where examples and their histories come from; nothing from `span.until_ms` on is read.
        span: which impressions are examples.
        model: what the batches are for.
        training: how they are made.

    Raises:
        ValueError: where the span has no impression.

    """

    def __init__(self, log: Log, span: Span, model: ModelConfig, training: TrainingConfig) -> None:
        self._log, self._span, self._training = log, span, training
        rows = rows_between(log, 0 if span.earlier else span.since_ms, span.until_ms)
        self.rows = rows[log.known_at[rows] < span.until_ms]  # what came of the others was not known by then
        if not (log.at[self.rows] >= span.since_ms).any():
            raise ValueError("there is no impression in this span of the log; nothing can be learned")
        longest = int(np.count_nonzero(log.posts.tokens, axis=1).max())
        # what is padding in every text is not worth being read
        self._model = replace(model, tokens=max(1, min(model.tokens, longest)))
        self._epoch, self._slates = 0, self._slates_of(0)
        self.steps_per_epoch = max(1, len(self._slates.viewer_id) // training.batch)
        self.steps = self.steps_per_epoch * training.epochs
        self._totals = Totals(log, span.labelled_since)
        self._posts = _known_posts(log, span.until_ms)
        self._corpus = _Corpus(log, self.rows[self._weights(self.rows) > 0], self._posts, self._model)

    @property
    def description(self) -> dict[str, Any]:
        """What is learned from, for a card: equal descriptions mean equal batches."""
        log, past = self._log, self._log.at < self._span.until_ms
        digest = xxhash.xxh3_64()
        for column in (log.posts.post_id[log.post], *log[3:], log.viewer_id):
            digest.update(np.ascontiguousarray(column[past]).data)
        for column in log.posts:
            digest.update(np.ascontiguousarray(column[self._posts]).data)
        return self._span._asdict() | {
            "labelled_since": dict(self._span.labelled_since),
            "examples": len(self.rows),
            "viewers": len(np.unique(log.viewer_id[self.rows])),
            "posts": len(np.unique(log.post[self.rows])),
            "earlier_impressions": int(np.count_nonzero(log.at < self._span.since_ms)),
            "collisions": self._collisions(np.unique(log.viewer_id[past])),
            "digest": digest.hexdigest(),
        }

    def _collisions(self, viewers: Int64[np.ndarray, " v"]) -> dict[str, dict[str, float]]:
        """For each table, which share of what is looked up there has not all of its rows, or none, to itself."""
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
        """The batch of a step, counted from 0."""
        epoch, ordinal = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._slates = epoch, self._slates_of(epoch)
        size = self._training.batch
        wanted = np.arange(ordinal * size, (ordinal + 1) * size) % len(self._slates.viewer_id)
        return self._batch(self._slates.take(wanted), step)

    def _slates_of(self, epoch: int) -> Slates:
        """An epoch's slates in the order of chance, but last those of the span of which all is known."""
        training = self._training
        rng = np.random.default_rng([training.seed, _ORDER, epoch])
        complete = self._log.at[self.rows] >= max([self._span.since_ms, *self._span.labelled_since.values()])
        passes = [(self.rows[~complete], _ENDLESS_MS)] if not complete.all() else []
        again = training.complete_passes if passes else 1
        passes += [(self.rows[complete], training.span_hours * HOUR_MS)] * (again if complete.any() else 0)
        cut = [in_runs(self._log, rows, training.candidates, span_ms, rng) for rows, span_ms in passes]
        shuffled = [slates.take(rng.permutation(len(slates.viewer_id))) for slates in cut]
        return Slates(*(np.concatenate(columns) for columns in zip(*shuffled, strict=True)))

    def _batch(self, slates: Slates, step: int) -> Batch:
        model, seed = self._model, self._training.seed
        history = history_of(self._log, slates, model.history, model.tokens)
        candidates = candidates_of(self._log, self._totals, slates, model.tokens)
        dropout = np.random.default_rng([seed, _DROPOUT, step])
        sample = np.random.default_rng([seed, _SAMPLE, step])
        posts, retrieval = self._corpus.choice(
            self._log.post[slates.rows],
            self._weights(slates.rows) * slates.mask,
            self._training.sampled_posts,
            sample,
        )
        asked = candidate_rows(model, candidates, 0, slates.rows.shape[1]), self._ranking(slates)
        if self._training.negative_weight:
            shown = np.where(slates.mask, self._log.post[slates.rows], NO_ROW)
            asked = with_negatives(slates.viewer_id, shown, *asked, self._training.negative_weight)
        return Batch(*self._dropped(history_rows(model, history), asked[0], dropout), asked[1], posts, retrieval)

    def _ranking(self, slates: Slates) -> RankingTargets:
        done, known = labels_of(self._log, slates, self._span.labelled_since)
        labels = done.astype(np.float32)
        labels[..., DWELL_TIME] = np.minimum(self._log.dwell_ms[slates.rows] / MAX_DWELL_MS, 1.0)
        return RankingTargets(labels, known.astype(np.float32))

    def _weights(self, rows: Int64[np.ndarray, "*r"]) -> Float32[np.ndarray, "*r"]:
        """How far it is worth finding what was shown: by the most telling of the actions that followed."""
        of_action = np.zeros(ACTION_COUNT, np.float32)
        for action, weight in self._training.positive_weights.items():
            of_action[ACTION_INDEX[action]] = weight
        done = self._log.actions[rows]
        weights = np.maximum(np.max(done * of_action, axis=-1), np.float32(self._training.shown_weight))
        return np.where((done & IS_NEGATIVE).any(axis=-1), np.float32(0), weights)

    def _dropped(
        self, history: HistoryRows, candidates: CandidateRows, rng: np.random.Generator
    ) -> tuple[HistoryRows, CandidateRows]:
        """Some viewers made strangers, some posts new, some of the past forgotten, lest it be learned by heart."""

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


def _known_posts(log: Log, until_ms: int) -> Int64[np.ndarray, " k"]:
    """The posts that were published, or seen, before a moment; ascending."""
    created_at = log.posts.created_at
    known = (created_at > 0) & (created_at < until_ms)
    known[log.post[log.at < until_ms]] = True
    return np.flatnonzero(known)


class _Corpus:
    """The posts that retrieval chooses from, and how often each is to be expected among those of a batch.

    Args:
        log: the posts are of.
        wanted: rows of it whose posts are worth finding.
        known: the posts there are, ascending.
        model: what reads them.

    """

    def __init__(
        self, log: Log, wanted: Int64[np.ndarray, " w"], known: Int64[np.ndarray, " k"], model: ModelConfig
    ) -> None:
        posts = log.posts
        self._rows = post_rows(model, PostInputs(posts.author_id, posts.tokens, posts.video_ms, posts.photos))
        self._known = known
        self._share = np.bincount(log.post[wanted], minlength=len(posts.post_id)) / max(1, len(wanted))

    def choice(
        self,
        shown: Int64[np.ndarray, "B C"],
        weights: Float32[np.ndarray, "B C"],
        sampled: int,
        rng: np.random.Generator,
    ) -> tuple[PostRows, RetrievalTargets]:
        """The posts worth finding in a batch and `sampled` others; all there are, where that is no more."""
        size = shown.size + sampled
        if size >= len(self._known):
            chosen, log_q = self._known, np.zeros(len(self._known))
        else:
            chosen, log_q = self._sample(shown[weights > 0], size, sampled, rng)
        place = np.searchsorted(chosen, np.where(weights > 0, shown, chosen[0])).astype(np.int32)
        targets = RetrievalTargets(place, weights, log_q.astype(np.float32))
        return PostRows(*(column[chosen] for column in self._rows)), targets

    def _sample(
        self, wanted: Int64[np.ndarray, " w"], size: int, sampled: int, rng: np.random.Generator
    ) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """The wanted posts and some at random, ascending, filled up to `size` by posts that count as none."""
        chosen = np.union1d(wanted, rng.choice(self._known, sampled, replace=False))
        q = 1 - (1 - self._share[chosen]) ** len(wanted) * (1 - sampled / len(self._known))
        filling = size - len(chosen)
        return np.pad(chosen, (0, filling), mode="edge"), np.pad(np.log(q), (0, filling), constant_values=-np.inf)
