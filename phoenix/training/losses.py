"""The losses of both models, and their sum as a function of the parameters and a batch.

Shapes: see `phoenix.features.inputs`; B counts slates, n the posts among which retrieval chooses.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float, Float32

from phoenix.data.targets import RankingTargets, RetrievalTargets
from phoenix.features.actions import ACTION_COUNT
from phoenix.features.inputs import CandidateRows, HistoryRows, PostRows
from phoenix.models.configs import ModelConfig, TrainingConfig
from phoenix.models.parameters import Params, pure
from phoenix.models.ranker import Ranker
from phoenix.models.two_tower import TwoTower
from thunder_ingest.events import ACTION_INDEX

PIECE: Final = 16
"""Slates that the models compute together."""


class Losses(NamedTuple):
    """The losses of a step's batch before the step; arrays on the device, so reading them waits for the step."""

    ranking: Float32[Array, ""]
    retrieval: Float32[Array, ""]


def ranking_loss(
    logits: Float[Array, "B C A"], targets: RankingTargets, action_weights: Float[Array, " A"]
) -> Float[Array, ""]:
    """Cross-entropy of each action plus the absolute error of the dwell time: weighted sums, averaged over candidates.

    The absolute error fits the median of the dwell time, which a few very long watches do not move.
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
    """Sampled softmax (Bengio and Senécal 2003): the negative log-likelihood of the positive posts among all n.

    The log-Q correction (Yi et al. 2019) subtracts the logarithm of each post's sampling probability. Popular posts are
    more often among the n; with the correction, scores mean the same as in a softmax over all posts.
    """
    logits = jnp.exp(-log_temperature) * (users @ posts.T) - targets.log_q[None]
    logits = jnp.where(jnp.isneginf(targets.log_q)[None], -jnp.inf, logits)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), targets.post, axis=-1)
    return -jnp.sum(chosen * targets.weights) / jnp.maximum(jnp.sum(targets.weights), 1.0)


def sum_of_losses(model: ModelConfig, training: TrainingConfig) -> Callable[..., tuple[Float32[Array, ""], Losses]]:
    """A function of `Params` and the fields of a batch: the sum of both losses, and each of them.

    The models share no parameter, so the gradient of the sum holds the gradient of each.
    """
    rank = pure(lambda history, candidates: Ranker(model)(history, candidates))
    embed_users = pure(lambda history: TwoTower(model).embed_users(history))
    embed_posts = pure(lambda posts: TwoTower(model).embed_posts(posts))
    log_temperature = pure(lambda: TwoTower(model).log_temperature())
    weights = np.zeros(ACTION_COUNT, np.float32)
    for action, weight in training.action_weights.items():
        weights[ACTION_INDEX[action]] = weight

    def losses(
        params: Params,
        history: HistoryRows,
        candidates: CandidateRows,
        ranking: RankingTargets,
        posts: PostRows,
        retrieval: RetrievalTargets,
    ) -> tuple[Float32[Array, ""], Losses]:
        two_tower = params.two_tower
        logits = in_pieces(partial(rank, params.ranker), history, candidates)
        users = in_pieces(partial(embed_users, two_tower), history)
        both = Losses(
            ranking_loss(logits, ranking, jnp.asarray(weights)),
            retrieval_loss(users, embed_posts(two_tower, posts), retrieval, log_temperature(two_tower)),
        )
        return both.ranking + both.retrieval, both

    return losses


def in_pieces(model: Callable[..., Array], *inputs: Any) -> Array:
    """A model's output for a batch, PIECE slates at a time, with rematerialisation (Chen et al. 2016).

    The derivative computes each piece again. So the intermediate results stay small enough for a processor's caches. A
    batch whose size is no multiple of PIECE is computed whole.
    """
    size = len(jax.tree.leaves(inputs)[0])
    if size % PIECE:
        return model(*inputs)
    pieces = jax.tree.map(lambda column: column.reshape(-1, PIECE, *column.shape[1:]), inputs)
    outputs: Array = jax.lax.map(jax.checkpoint(lambda piece: model(*piece)), pieces)
    return outputs.reshape(size, *outputs.shape[2:])
