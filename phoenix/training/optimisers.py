"""How parameters follow their gradients: the hashed tables by row-wise AdaGrad, all others by AdamW or Muon.

A row of a table is touched by few examples. AdaGrad gives each row a step of its own, large while it is new; one number
a row is kept for it, where Adam would keep two for each weight.
"""

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

Dense = Literal["adamw", "muon"]

TABLE: Final = "rows"
"""The name of every table's parameter (`layers.HashTable`)."""
FEW_ROWS: Final = 64
"""A table of no more rows, such as one of surfaces or ages, is met whole in every batch, like any other matrix."""
_MAX_GRADIENT: Final = 1.0
_EPSILON: Final = 1e-8


class RowSums(NamedTuple):
    """The state of `row_wise_adagrad`: for each row the sum of mean squared gradients, [rows, 1]."""

    squares: Any


def row_wise_adagrad(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """AdaGrad with one accumulator for each row; rows without a gradient stay as they are."""

    def init(params: Any) -> RowSums:
        return RowSums(jax.tree.map(lambda table: jnp.zeros((len(table), 1), table.dtype), params))

    def update(gradients: Any, state: RowSums, _: Any = None) -> tuple[Any, RowSums]:
        squares = jax.tree.map(
            lambda total, of: total + jnp.mean(of * of, axis=1, keepdims=True), state.squares, gradients
        )
        scaled = jax.tree.map(lambda of, total: of / (jnp.sqrt(total) + _EPSILON), gradients, squares)
        return scaled, RowSums(squares)

    return optax.chain(optax.GradientTransformation(init, update), optax.scale_by_learning_rate(rate))


def optimiser(
    *,
    rate: optax.ScalarOrSchedule,
    table_rate: optax.ScalarOrSchedule,
    weight_decay: float,
    dense: Dense = "adamw",
) -> optax.GradientTransformation:
    """The optimiser of one model.

    Args:
        rate: learning rate of all that is no table.
        table_rate: of the tables.
        weight_decay: of all that is no table.
        dense: what moves these. Muon makes the update of a matrix orthogonal, and leaves the rest to AdamW.

    """
    adam_or_muon = optax.adamw if dense == "adamw" else optax.contrib.muon
    both = optax.partition(
        {
            "tables": row_wise_adagrad(table_rate),
            "dense": optax.chain(
                optax.clip_by_global_norm(_MAX_GRADIENT), adam_or_muon(rate, weight_decay=weight_decay)
            ),
        },
        _kinds,
    )
    return optax.GradientTransformation(both.init, _lenient(both.update))


def _lenient(update: Callable[..., Any]) -> Callable[..., Any]:
    """Optax mixes types and ranks; callers that are strict about their own need not know."""

    def updated(*arguments: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return update(*arguments)

    return updated


def _kinds(params: hk.Params) -> Any:
    return {
        module: {name: "tables" if name == TABLE and len(of) > FEW_ROWS else "dense" for name, of in of_module.items()}
        for module, of_module in params.items()
    }
