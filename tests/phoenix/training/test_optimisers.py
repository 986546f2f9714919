from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from phoenix.training.optimisers import Dense, optimiser, row_wise_adagrad

TABLE = {"module": {"rows": jnp.ones((4, 3))}}


def test_each_row_has_its_own_step_size_and_a_row_without_a_gradient_stays() -> None:
    step = row_wise_adagrad(0.1)
    gradient = jnp.zeros((4, 3)).at[1].set(jnp.array([3.0, 0.0, 0.0])).at[2].set(0.001)
    updates, state = step.update(gradient, step.init(TABLE["module"]["rows"]))
    np.testing.assert_allclose(updates[1], [-0.1 * 3**0.5, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(updates[2], [-0.1] * 3, rtol=1e-3)  # however small the gradient is
    assert not updates[jnp.array([0, 3])].any()
    again, _ = step.update(gradient, state)
    np.testing.assert_allclose(again[1], updates[1] / 2**0.5, rtol=1e-5)


@pytest.mark.parametrize("dense", ["adamw", "muon"])
def test_tables_and_dense_parameters_have_separate_optimisers(dense: Dense) -> None:
    params = {"module": {"rows": jnp.ones((300, 3))}, "few": {"rows": jnp.ones((16, 3))}} | {
        "linear": {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    }
    step = optimiser(rate=0.01, table_rate=0.1, weight_decay=0.5, dense=dense)
    state = step.init(params)
    nothing = {module: {name: jnp.zeros_like(of) for name, of in names.items()} for module, names in params.items()}
    updates, _ = step.update(nothing, state, params)
    moved = optax.apply_updates(params, updates)
    assert (moved["module"]["rows"] == 1).all()  # no gradient, no step, and no decay
    assert (moved["linear"]["w"] < 1).all()
    assert (moved["few"]["rows"] < 1).all()  # a small table is dense


@pytest.mark.parametrize("dense", ["adamw", "muon"])
def test_the_optimiser_finds_a_minimum(dense: Dense) -> None:
    params = {"a": {"rows": jnp.zeros((300, 2))}, "b": {"w": jnp.zeros((2, 2))}}
    step = optimiser(rate=0.02, table_rate=0.3, weight_decay=0.0, dense=dense)

    @jax.jit
    def stepped(params: Any, state: Any) -> Any:
        gradients = {"a": {"rows": params["a"]["rows"] - 1.0}, "b": {"w": params["b"]["w"] - jnp.eye(2)}}
        updates, state = step.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = step.init(params)
    for _ in range(300):
        params, state = stepped(params, state)
    np.testing.assert_allclose(params["a"]["rows"], 1.0, atol=0.05)
    np.testing.assert_allclose(params["b"]["w"], np.eye(2), atol=0.05)
