"""Training: both models, a step for each batch, from a state that says all there is to say.

A step depends on the state and its batch alone, and the batch on the state's step: a run that was cut off and goes on
from a state comes to the same parameters, bit for bit, as one that was not.
"""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float32, Int32

from phoenix.data.batches import Batch, Batches
from phoenix.features.actions import ACTION_COUNT
from phoenix.models.configs import ModelConfig, TrainingConfig
from phoenix.models.flops import matmul_flops
from phoenix.models.parameters import Params, abstract_params, initial_params, pure
from phoenix.models.ranker import Ranker
from phoenix.models.two_tower import TwoTower
from phoenix.training.losses import ranking_loss, retrieval_loss
from phoenix.training.optimisers import optimiser
from phoenix.training.sparse_tables import Asked, compact, put_back, sized, taken
from thunder_ingest.events import ACTION_INDEX

Made = TypeVar("Made")
_LAST_RATE: Final = 0.05
"""What is left of a learning rate at the end, as a share of the first."""
_WARM_UP_STEPS: Final = 100
PIECE: Final = 16
"""Slates that are computed together."""


class State(NamedTuple):
    """Everything that the next step depends on besides the log and the configuration."""

    params: Params
    optimisers: tuple[optax.OptState, optax.OptState]
    step: Int32[Any, ""]  # how many steps have been taken
    mean: Params | None  # of the parameters after the last of these steps; None where it is not asked for

    @property
    def served(self) -> Params:
        """The parameters that are worth serving."""
        return self.params if self.mean is None else self.mean


class Losses(NamedTuple):
    """What a step's batch was worth before it was learned from; a device's numbers, so reading them waits for it."""

    ranking: Float32[Array, ""]
    retrieval: Float32[Array, ""]


class Trainer:
    """Trains both models of a configuration.

    Args:
        model: their sizes.
        training: how they are trained.
        steps: of the whole run, which the learning rates depend on.

    """

    def __init__(self, model: ModelConfig, training: TrainingConfig, steps: int) -> None:
        self._model, self._training = model, training
        self._mean_after = round(steps * (1 - training.mean_of_last))
        self._optimisers = tuple(
            optimiser(
                rate=scheduled(rate, steps, training.falling),
                table_rate=scheduled(table_rate, steps, training.falling),
                weight_decay=training.weight_decay,
                dense=training.dense,
            )
            for rate, table_rate in (
                (training.rate, training.table_rate),
                (training.retrieval_rate, training.retrieval_table_rate),
            )
        )
        self._compiled = jax.jit(self._stepped, donate_argnums=0)

    def initial(self) -> State:
        """The state before the first step."""
        return self._begun(jax.device_put(initial_params(self._model, self._training.seed)))

    def abstract(self) -> State:
        """The shapes and types of a state, as `jax.ShapeDtypeStruct`: what a checkpoint is to be read as."""
        state: State = jax.eval_shape(self._begun, abstract_params(self._model))
        return state

    def _begun(self, params: Params) -> State:
        ranking, retrieval = (each.init(of) for each, of in zip(self._optimisers, params, strict=True))
        mean = jax.tree.map(jnp.copy, params) if self._training.mean_of_last else None
        return State(params, (ranking, retrieval), jnp.zeros((), jnp.int32), mean)

    def run(self, state: State, batches: Batches) -> Generator[tuple[State, Losses], None, None]:
        """Take the steps that are left, yielding the state after each; it may be used until the next is asked for.

        Until the iterator is closed, the batches are a thread's, which makes the next one during a step.
        """

        def batch(step: int) -> tuple[Batch, Asked]:
            return compact(self._model, batches.batch(step))

        with closing(ahead(batch, range(int(state.step), batches.steps))) as made:
            for each in made:
                state, losses = self._take(state, *each)
                yield state, losses

    def step(self, state: State, batch: Batch) -> tuple[State, Losses]:
        """Take one step, which uses up the state."""
        return self._take(state, *compact(self._model, batch))

    def _take(self, state: State, batch: Batch, asked: Asked) -> tuple[State, Losses]:
        stepped: tuple[State, Losses] = self._compiled(state, batch, asked)
        return stepped

    def flops(self, batch: Batch) -> int:
        """Floating-point operations of the matrix products of a step on a batch of this size."""
        return matmul_flops(self._stepped, self.abstract(), *compact(self._model, batch))

    def _stepped(self, state: State, batch: Batch, asked: Asked) -> tuple[State, Losses]:
        compacted = taken(state._replace(mean=None), asked)
        moved, losses = self._moved(compacted, batch, sized(self._model, asked))
        whole = put_back(state._replace(mean=None), asked, moved)
        return whole._replace(mean=self._mean(state.mean, whole)), losses

    def _mean(self, mean: Params | None, state: State) -> Params | None:
        """The mean with one step more, or of the first: it passes over whole tables."""
        if mean is None:
            return None
        share = 1.0 / jnp.maximum(state.step - self._mean_after, 1).astype(jnp.float32)
        moved: Params = jax.tree.map(lambda old, new: old * (1.0 - share) + new * share, mean, state.params)
        return moved

    def _moved(self, state: State, batch: Batch, model: ModelConfig) -> tuple[State, Losses]:
        """A step that passes over all of a state's tables, which are of that model's sizes."""
        of_params = jax.value_and_grad(_losses(model, self._training), has_aux=True)
        (_, losses), gradients = of_params(state.params, batch)
        moved, states = [], []
        for each, of, gradient, params in zip(self._optimisers, state.optimisers, gradients, state.params, strict=True):
            updates, after = each.update(gradient, of, params)
            moved.append(optax.apply_updates(params, updates))
            states.append(after)
        return State(Params(*moved), (states[0], states[1]), state.step + 1, state.mean), losses


def ahead(make: Callable[[int], Made], steps: range) -> Generator[Made, None, None]:
    """What is made for each step, on a thread: the next one while one is in use.

    Raises:
        Exception: whatever `make` did, when its step has come.

    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as thread:
        coming: Future[Made] | None = None
        for step in steps:
            made, coming = coming, thread.submit(make, step)
            if made is not None:
                yield made.result()
        if coming is not None:
            yield coming.result()


def _losses(
    model: ModelConfig, training: TrainingConfig
) -> Callable[[Params, Batch], tuple[Float32[Array, ""], Losses]]:
    """The sum of both models' losses, which share no parameter, and each of them."""
    rank = pure(lambda history, candidates: Ranker(model)(history, candidates))
    embed_users = pure(lambda history: TwoTower(model).embed_users(history))
    embed_posts = pure(lambda posts: TwoTower(model).embed_posts(posts))
    log_temperature = pure(lambda: TwoTower(model).log_temperature())
    weights = np.zeros(ACTION_COUNT, np.float32)
    for action, weight in training.action_weights.items():
        weights[ACTION_INDEX[action]] = weight

    def losses(params: Params, batch: Batch) -> tuple[Float32[Array, ""], Losses]:
        two_tower = params.two_tower
        logits = in_pieces(partial(rank, params.ranker), batch.history, batch.candidates)
        users = in_pieces(partial(embed_users, two_tower), batch.history)
        both = Losses(
            ranking_loss(logits, batch.ranking, jnp.asarray(weights)),
            retrieval_loss(users, embed_posts(two_tower, batch.posts), batch.retrieval, log_temperature(two_tower)),
        )
        return both.ranking + both.retrieval, both

    return losses


def in_pieces(model: Callable[..., Array], *inputs: Any) -> Array:
    """What a model says of a batch, PIECE slates at a time, each computed anew for its derivative.

    What is computed in between is then small enough for a processor's caches, through which it goes many times. A batch
    that does not divide into pieces is computed whole.
    """
    size = len(jax.tree.leaves(inputs)[0])
    if size % PIECE:
        return model(*inputs)
    pieces = jax.tree.map(lambda column: column.reshape(-1, PIECE, *column.shape[1:]), inputs)
    outputs: Array = jax.lax.map(jax.checkpoint(lambda piece: model(*piece)), pieces)
    return outputs.reshape(size, *outputs.shape[2:])


def scheduled(rate: float, steps: int, falling: float) -> optax.Schedule:
    """A learning rate that rises for a few steps, stays, and over the last share `falling` of all falls in a line."""
    rising = min(_WARM_UP_STEPS, steps // 10)
    last = min(round(steps * falling), steps - rising)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, rate, rising),
            optax.constant_schedule(rate),
            optax.linear_schedule(rate, rate * _LAST_RATE, last),
        ],
        [rising, steps - last],
    )
