"""What the models are trained to make small.

Glossary of shapes:

    B: slates
    C: candidates of each slate
    A: the 19 actions
    n: posts that retrieval chooses from
    E: width of the two-tower vectors
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Float32, Int32

from phoenix.features.inputs import Column


class RankingTargets(NamedTuple):
    """What came of the candidates."""

    labels: Float32[Column, "B C A"]  # 1 done, 0 not; last the dwell time, as a share of MAX_DWELL_MS
    weights: Float32[Column, "B C A"]  # 0 where it is not known


class RetrievalTargets(NamedTuple):
    """Which of the n posts each slate's candidates are, and how far they are worth finding."""

    post: Int32[Column, "B C"]  # index into the posts
    weights: Float32[Column, "B C"]  # 0 where there is nothing to be found
    log_q: Float32[Column, " n"]  # logarithm of the probability that a post is among the n; -inf: no post


def ranking_loss(
    logits: Float[Array, "B C A"], targets: RankingTargets, action_weights: Float[Array, " A"]
) -> Float[Array, ""]:
    """Cross-entropy of each action and the absolute error of the dwell time: weighted sums, averaged over candidates.

    The dwell time's median is what an absolute error asks for: a few very long watches do not move it.
    """
    of_actions = optax.sigmoid_binary_cross_entropy(logits[..., :-1], targets.labels[..., :-1])
    of_dwell = jnp.abs(jax.nn.sigmoid(logits[..., -1:]) - targets.labels[..., -1:])
    losses = jnp.concatenate([of_actions, of_dwell], axis=-1) * targets.weights * action_weights[None, None]
    candidates = jnp.sum(jnp.max(targets.weights, axis=-1))
    return jnp.sum(losses) / jnp.maximum(candidates, 1.0)


def retrieval_loss(
    users: Float[Array, "B E"],
    posts: Float[Array, "n E"],
    targets: RetrievalTargets,
    log_temperature: Float[Array, ""],
) -> Float[Array, ""]:
    """Sampled softmax: how improbable the posts that were worth finding are among all n, for the viewer they suited.

    Subtracting log Q makes up for the sampling, by which much-shown posts are among the n more often than others: the
    scores come to mean the same as if every post there is had been among them.
    """
    logits = jnp.exp(-log_temperature) * (users @ posts.T) - targets.log_q[None]
    logits = jnp.where(jnp.isneginf(targets.log_q)[None], -jnp.inf, logits)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), targets.post, axis=-1)
    return -jnp.sum(chosen * targets.weights) / jnp.maximum(jnp.sum(targets.weights), 1.0)
