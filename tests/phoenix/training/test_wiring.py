"""From a log to the losses: each weight, correction, dropout and time reaches its place.

Each test fails with a bug that the other tests of training survive; its docstring names the bug.
"""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from infra.ports.clock import HOUR_MS
from phoenix.data.batches import Batches, Span
from phoenix.data.impressions import log_of
from phoenix.data.targets import RankingTargets, RetrievalTargets
from phoenix.features.actions import ACTION_COUNT
from phoenix.models.configs import ModelConfig, TrainingConfig
from phoenix.models.parameters import Params
from phoenix.training import losses
from tests.phoenix.evaluation.logs import BEGIN_MS, log_drawn
from thunder_ingest.events import ACTION_INDEX, ACTIONS, IMPRESSION, ActionName, Impression, PostCreated

LOG = log_drawn(3, viewers=200, posts=300)
SPAN = Span(BEGIN_MS, int(LOG.at.max()) + HOUR_MS, {})
TRAINING = TrainingConfig(batch=16, candidates=2, sampled_posts=20, positive_weights={"click": 1.0}, shown_weight=0.0)


def test_log_q_is_the_probability_that_a_batch_contains_a_post(tiny: ModelConfig) -> None:
    """Bug: a probability without the positive posts of the batch, or with a flipped sign.

    Each post of a batch stands for 1/Q posts (Horvitz and Thompson 1952): over many batches, the sum is their number.
    """
    batches = Batches(LOG, SPAN, tiny, replace(TRAINING, epochs=3))
    posts = len(np.unique(LOG.post))
    log_q = [batches.batch(step).retrieval.log_q for step in range(min(150, batches.steps))]
    assert max(each.max() for each in log_q) <= 0
    totals = [np.exp(-each[np.isfinite(each)]).sum() for each in log_q]
    assert np.mean(totals) == pytest.approx(posts, rel=0.03)


class FixedRanker:
    """Gives every action its own log-odds."""

    logits = jnp.linspace(-3.0, 3.0, ACTION_COUNT)

    def __init__(self, _: ModelConfig) -> None: ...

    def __call__(self, history: Any, candidates: Any) -> Array:
        return jnp.broadcast_to(self.logits, (*candidates.shape, ACTION_COUNT))


class FixedTowers:
    """Maps everything to one vector."""

    def __init__(self, _: ModelConfig) -> None: ...

    def embed_users(self, history: Any) -> Array:
        return jnp.ones((len(history), 2))

    embed_posts = embed_users

    def log_temperature(self) -> Array:
        return jnp.zeros(())


@pytest.mark.parametrize("action", ["favorite", "click", "dwell", "dwell_time"])
def test_the_weight_of_an_action_is_that_of_its_own_prediction(
    action: ActionName, tiny: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: weights on the head of the next action."""
    monkeypatch.setattr(losses, "Ranker", FixedRanker)
    monkeypatch.setattr(losses, "TwoTower", FixedTowers)
    training = TrainingConfig(action_weights=dict.fromkeys(ACTIONS, 0.0) | {action: 2.0})
    labels = np.zeros((1, 3, ACTION_COUNT), np.float32)
    ranking = RankingTargets(labels, np.ones_like(labels))
    retrieval = RetrievalTargets(np.zeros((1, 3), np.int32), np.zeros((1, 3), np.float32), np.zeros(4, np.float32))
    nothing: Any = {}
    given = (np.zeros((1, 1)), np.zeros((1, 3)), ranking, np.zeros((4, 1)), retrieval)
    _, found = losses.sum_of_losses(tiny, training)(Params(nothing, nothing), *given)
    p = 1 / (1 + np.exp(-FixedRanker.logits[ACTION_INDEX[action]]))
    assert float(found.ranking) == pytest.approx(2 * (p if action == "dwell_time" else -np.log(1 - p)), rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_viewer_dropout_removes_its_share_of_viewers(share: float, tiny: ModelConfig) -> None:
    """Bug: a dropout of 0."""
    batches = Batches(LOG, SPAN, tiny, replace(TRAINING, viewer_dropout=share))
    users = np.concatenate([batches.batch(step).history.user for step in range(60)])
    unknown = ~users.any(axis=1)
    assert unknown.mean() == pytest.approx(share, abs=0.05)
    assert users[~unknown].all()


def test_histories_ages_and_counts_are_those_of_the_moment_of_the_impression(tiny: ModelConfig) -> None:
    """Bug: inputs of a minute before or after the request.

    Each reader sees an old post, and 90 s later a post that is 90 s old. One viewer saw it 30 s before, and another one
    30 s after. A shift by a minute changes the bucket of each age, and the count.
    """
    events: list[Any] = []
    for reader in range(1, 33):
        old, new, at = 2 * reader, 2 * reader + 1, BEGIN_MS + reader * HOUR_MS
        events += [
            PostCreated(post_id=old, author_id=old, at=BEGIN_MS - 99 * HOUR_MS),
            PostCreated(post_id=new, author_id=new, at=at),
            Impression(user_id=reader, post_id=old, author_id=old, at=at),
            Impression(user_id=reader, post_id=new, author_id=new, at=at + 90_000),
            Impression(user_id=100 + reader, post_id=new, author_id=new, at=at + 60_000),
            Impression(user_id=200 + reader, post_id=new, author_id=new, at=at + 120_000),
        ]
    span = Span(BEGIN_MS, BEGIN_MS + 99 * HOUR_MS, {})
    one_by_one = TrainingConfig(batch=16, candidates=1, sampled_posts=4)
    batches = Batches(log_of(events), span, tiny, one_by_one)
    readers = 0
    for step in range(batches.steps):
        batch = batches.batch(step)
        reads = batch.history.mask.any(axis=1)
        readers += int(reads.sum())
        assert (batch.history.mask.sum(axis=1)[reads] == 1).all()
        assert (batch.history.age[batch.history.mask] == 1).all()
        assert (batch.candidates.age[reads] == 1).all()
        assert (batch.candidates.totals[reads][..., IMPRESSION] == 1).all()
    assert readers == 32
