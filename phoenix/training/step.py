"""The training step: one step of both models for each batch, from a state that determines the rest of the run.

A step depends on the state and its batch alone, and the batch on the state's step number. So a run that continues from
a saved state ends in the same parameters, bit for bit, as an uninterrupted one.

A step whose losses or updates are not finite is skipped: the step number goes on, and parameters and optimisers stay as
they were. One bad batch then costs one step instead of the run.
"""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Int32

from phoenix.data.batches import Batch, Batches
from phoenix.models.configs import ModelConfig, TrainingConfig
from phoenix.models.flops import matmul_flops
from phoenix.models.parameters import Params, abstract_params, initial_params
from phoenix.training.losses import Losses, sum_of_losses
from phoenix.training.optimisers import optimiser
from phoenix.training.sparse_tables import UsedRows, compact, gather, scatter, sized

Made = TypeVar("Made")
_LAST_RATE: Final = 0.05
"""The final learning rate as a share of the peak."""
_WARM_UP_STEPS: Final = 100


class State(NamedTuple):
    """Everything that the next step depends on, besides its batch and the configuration."""

    params: Params
    optimisers: tuple[optax.OptState, optax.OptState]
    step: Int32[Any, ""]  # steps taken so far
    skipped: Int32[Any, ""]  # steps skipped so far
    skipped_in_a_row: Int32[Any, ""]  # skipped steps since the last one that was taken
    mean: Params | None  # running mean of the parameters (`TrainingConfig.mean_of_last`); None without it

    @property
    def served(self) -> Params:
        """The parameters to serve: the mean, or the last ones without a mean."""
        return self.params if self.mean is None else self.mean


class Trainer:
    """Trains both models of a configuration.

    Args:
        model: sizes of the models.
        training: settings of the training.
        steps: number of steps of the whole run, for the learning rates.

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
        """The shapes and dtypes of a state, as `jax.ShapeDtypeStruct`, for reading a checkpoint."""
        state: State = jax.eval_shape(self._begun, abstract_params(self._model))
        return state

    def _begun(self, params: Params) -> State:
        ranking, retrieval = (each.init(of) for each, of in zip(self._optimisers, params, strict=True))
        mean = jax.tree.map(jnp.copy, params) if self._training.mean_of_last else None
        step, skipped, in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))
        return State(params, (ranking, retrieval), step, skipped, in_a_row, mean)

    def run(self, state: State, batches: Batches) -> Generator[tuple[State, Losses], None, None]:
        """Take the remaining steps and yield the state after each; the next step donates the buffers of that state.

        A thread makes the next batch during a step. Nothing else may use `batches` until the iterator is closed.
        """

        def batch(step: int) -> tuple[Batch, UsedRows]:
            return compact(self._model, batches.batch(step))

        with closing(ahead(batch, range(int(state.step), batches.steps))) as made:
            for each in made:
                state, losses = self._take(state, *each)
                yield state, losses

    def step(self, state: State, batch: Batch) -> tuple[State, Losses]:
        """Take one step; it donates the buffers of `state`."""
        return self._take(state, *compact(self._model, batch))

    def _take(self, state: State, batch: Batch, used: UsedRows) -> tuple[State, Losses]:
        stepped: tuple[State, Losses] = self._compiled(state, batch, used)
        return stepped

    def flops(self, batch: Batch) -> int:
        """Floating-point operations of the matrix products in a step on a batch of this size."""
        return matmul_flops(self._stepped, self.abstract(), *compact(self._model, batch))

    def _stepped(self, state: State, batch: Batch, used: UsedRows) -> tuple[State, Losses]:
        compacted = gather(state._replace(mean=None), used)
        moved, losses = self._moved(compacted, batch, sized(self._model, used))
        whole = scatter(state._replace(mean=None), used, _unless_skipped(compacted, moved, losses))
        return whole._replace(mean=self._mean(state.mean, whole)), losses

    def _mean(self, mean: Params | None, state: State) -> Params | None:
        """The running mean with the parameters of this step; it passes over whole tables."""
        if mean is None:
            return None
        share = 1.0 / jnp.maximum(state.step - self._mean_after, 1).astype(jnp.float32)
        moved: Params = jax.tree.map(lambda old, new: old * (1.0 - share) + new * share, mean, state.params)
        return moved

    def _moved(self, state: State, batch: Batch, model: ModelConfig) -> tuple[State, Losses]:
        """A step over all rows of the state's tables, which have the sizes of `model`."""
        gradient_of = jax.value_and_grad(sum_of_losses(model, self._training), has_aux=True)
        (_, losses), gradients = gradient_of(state.params, *batch)
        moved, states = [], []
        for each, of, gradient, params in zip(self._optimisers, state.optimisers, gradients, state.params, strict=True):
            updates, after = each.update(gradient, of, params)
            moved.append(optax.apply_updates(params, updates))
            states.append(after)
        return state._replace(params=Params(*moved), optimisers=(states[0], states[1]), step=state.step + 1), losses


def _unless_skipped(before: State, after: State, losses: Losses) -> State:
    """The state after a step; all but its counters are those before, if a loss or a value after is not finite."""
    # the barrier keeps XLA from compiling the step once more for each of the many checks
    before, after, losses = jax.lax.optimization_barrier((before, after, losses))
    values = jax.tree.leaves((after.params, after.optimisers, losses))
    is_finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(value)) for value in values]))
    kept: State = jax.lax.cond(is_finite, lambda: after, lambda: before)
    missed = jnp.where(is_finite, jnp.int32(0), jnp.int32(1))
    return kept._replace(
        step=after.step,
        skipped=before.skipped + missed,
        skipped_in_a_row=(before.skipped_in_a_row + missed) * missed,
    )


def ahead(make: Callable[[int], Made], steps: range) -> Generator[Made, None, None]:
    """Call `make` for each step on a thread, one step ahead of the consumer (prefetching), and yield the results.

    Raises:
        Exception: the error of `make`, when its step is due.

    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as thread:
        coming: Future[Made] | None = None
        for step in steps:
            made, coming = coming, thread.submit(make, step)
            if made is not None:
                yield made.result()
        if coming is not None:
            yield coming.result()


def scheduled(rate: float, steps: int, falling: float) -> optax.Schedule:
    """A learning rate with linear warm-up, a constant phase, and linear decay over the share `falling` at the end."""
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
