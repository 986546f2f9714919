import jax
import jax.numpy as jnp
import pytest
from jax import Array

from phoenix.features.hashing import HASHES
from phoenix.models.configs import ModelConfig
from phoenix.models.flops import matmul_flops
from phoenix.serving.engine import Phoenix


def test_a_product_counts_two_operations_for_each_multiplication() -> None:
    left, right = jnp.ones((5, 2, 3)), jnp.ones((5, 3, 7))
    assert matmul_flops(lambda a, b: jnp.exp(a @ b + 1.0), left, right) == 2 * 5 * 2 * 3 * 7


def test_products_in_functions_and_in_each_round_of_a_loop_count() -> None:
    def four_times(x: Array) -> Array:
        return jax.lax.scan(lambda carry, _: (jax.jit(jnp.matmul)(carry, carry), None), x, length=4)[0]

    assert matmul_flops(four_times, jnp.ones((3, 3))) == 4 * 2 * 3**3


def test_dead_code_counts_nothing() -> None:
    assert matmul_flops(lambda x: ((x @ x) * 0.0, x)[1], jnp.ones((3, 3))) == 0


def test_a_count_that_depends_on_values_is_refused() -> None:
    def some_times(x: Array) -> Array:
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 1e3, lambda y: y @ y, x)

    with pytest.raises(ValueError, match="depends on values"):
        matmul_flops(some_times, jnp.ones((3, 3)))


@pytest.mark.parametrize("candidates", [1, 100])
def test_the_count_for_scoring_follows_from_the_sizes_of_the_layers(tiny: ModelConfig, candidates: int) -> None:
    hidden = -(-(tiny.widening * tiny.dim * 2 // 3) // 8) * 8
    query, key = tiny.heads * tiny.head_dim, tiny.kv_heads * tiny.head_dim
    prefix = 1 + tiny.history
    layer = tiny.dim * (2 * query + 2 * key + 3 * hidden) + 2 * prefix * query
    keys_and_values = tiny.dim * 2 * key  # all that is asked of the prefix in the last layer
    id_ = HASHES * tiny.table_dim * tiny.dim
    post = 2 * id_ + tiny.table_dim * tiny.dim
    viewer = prefix * ((tiny.layers - 1) * layer + keys_and_values) + tiny.history * (post + 19 * tiny.dim) + id_
    counts = (20 + 19) * tiny.dim
    # one product more, with its own key, and one less, with the first value, which is only scaled
    affinity = tiny.history * (tiny.table_dim + 2 * 2)
    candidate = tiny.layers * layer + post + counts + affinity + 19 * tiny.dim
    model = Phoenix.seeded(tiny, seed=7)  # it is traced and not compiled
    assert model.scoring_flops(3, candidates) == 2 * 3 * (viewer + candidates * candidate)
