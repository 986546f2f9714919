import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

from phoenix.models.layers import HashTable, signed_actions
from tests.phoenix.builders import TOLERANCE

ROWS, DIM = 9, 3


@jax.jit
def by_matrix(table: Array, counts: Array, change: Array) -> tuple[Array, tuple[Array, ...]]:
    """The means as a product of counts and rows, and the derivative of its product with `change`."""
    result, backwards = jax.vjp(
        lambda table: counts / jnp.maximum(counts.sum(axis=1, keepdims=True), 1.0) @ table, table
    )
    return result, backwards(change)


@jax.jit
def by_layer(table: Array, rows: Array, change: Array) -> tuple[Array, tuple[Array, ...]]:
    model: hk.Transformed = hk.without_apply_rng(hk.transform(lambda: HashTable(ROWS, DIM, name="table").mean(rows)))
    result, backwards = jax.vjp(lambda table: model.apply({"table": {"rows": table}}), table)
    return result, backwards(change)


def test_an_action_is_taken_or_refused_or_unknown_and_a_post_passed_over_has_none() -> None:
    taken = jnp.asarray([[True, False, False], [False, False, False], [True, False, True]])
    recorded = jnp.asarray([[True, True, False], [True, True, False], [True, True, True]])
    assert signed_actions(taken, recorded).tolist() == [[1, -1, 0], [0, 0, 0], [1, -1, 1]]


# each shape is compiled
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from([(1, 1), (1, 12), (5, 1), (4, 7)]))
def test_a_mean_of_rows_and_its_derivative_leave_out_row_0(seed: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    table = jnp.asarray(rng.normal(size=(ROWS, DIM)), jnp.float32)
    rows = rng.integers(0, ROWS, shape, np.int32)
    change = jnp.asarray(rng.normal(size=(shape[0], DIM)), jnp.float32)
    counts = np.stack([np.bincount(text[text != 0], minlength=ROWS) for text in rows]).astype(np.float32)
    expected, (theirs,) = by_matrix(table, jnp.asarray(counts), change)
    found, (ours,) = by_layer(table, jnp.asarray(rows), change)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)
