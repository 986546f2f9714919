import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

from phoenix.models.layers import HashTable
from tests.phoenix.builders import TOLERANCE

ROWS, DIM = 9, 3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), texts=st.integers(1, 5), length=st.integers(1, 12))
def test_a_mean_of_rows_and_its_derivative_leave_out_row_0(seed: int, texts: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    table = jnp.asarray(rng.normal(size=(ROWS, DIM)), jnp.float32)
    rows = rng.integers(0, ROWS, (texts, length), np.int32)
    change = jnp.asarray(rng.normal(size=(texts, DIM)), jnp.float32)
    model: hk.Transformed = hk.without_apply_rng(
        hk.transform(lambda: HashTable(ROWS, DIM, name="table").mean(jnp.asarray(rows)))
    )

    def by_matrix(table: Array) -> Array:
        counts = np.stack([np.bincount(text[text != 0], minlength=ROWS) for text in rows]).astype(np.float32)
        return jnp.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)) @ table

    expected, backwards = jax.vjp(by_matrix, table)
    found, found_backwards = jax.vjp(lambda table: model.apply({"table": {"rows": table}}), table)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    (ours,), (theirs,) = found_backwards(change), backwards(change)
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)
