"""Optimisers: row-wise AdaGrad for the hashed tables, AdamW or Muon for the dense parameters.

Few examples touch a row of a table. AdaGrad (Duchi et al. 2011) gives each row its own step size, which is large for a
new row. Row-wise, as in DLRM (Naumov et al. 2019), it keeps one number for each row; Adam would keep two for each
weight. AdamW: Loshchilov and Hutter 2019. Muon: Jordan et al. 2024.
"""

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

Dense = Literal["adamw", "muon"]

TABLE: Final = "rows"
"""The parameter name of every table (`layers.HashTable`)."""
FEW_ROWS: Final = 256
"""A table with at most this many rows, such as the one of surfaces, is dense: every batch uses most of its rows."""
_MAX_GRADIENT: Final = 1.0
_EPSILON: Final = 1e-8


class RowSums(NamedTuple):
    """The state of `row_wise_adagrad`: the sum of mean squared gradients of each row, `[R, 1]`."""

    squares: Any


def row_wise_adagrad(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """AdaGrad (Duchi et al. 2011) with one accumulator for each row; rows without a gradient stay unchanged."""

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
        rate: learning rate of the dense parameters.
        table_rate: learning rate of the tables.
        weight_decay: decoupled weight decay of the dense parameters.
        dense: optimiser of the dense parameters. Muon orthogonalises the updates of matrices, and uses AdamW for the
            rest.

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
    """Allow dtype and rank promotion inside Optax, which needs both, for callers that run JAX strictly."""

    def updated(*arguments: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return update(*arguments)

    return updated


def _kinds(params: hk.Params) -> Any:
    return {
        module: {name: "tables" if name == TABLE and len(of) > FEW_ROWS else "dense" for name, of in of_module.items()}
        for module, of_module in params.items()
    }
