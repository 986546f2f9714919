import haiku as hk
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from phoenix.models.initialisers import Repeated, Uniform, drawn


def model(x: Array) -> Array:
    scale = hk.get_parameter("scale", [3], init=hk.initializers.Constant(2.0))
    weights = hk.get_parameter("weights", [5, 3], init=Uniform(0.5))
    return jnp.matmul(x, weights) * scale[None]


INPUT = np.zeros((1, 5), np.float32)


@pytest.mark.parametrize("deviation", [0.01, 1.0, 7.0])
def test_draws_have_the_given_standard_deviation(deviation: float) -> None:
    values = Uniform(deviation).draw((400, 500), seed=3, name="w")
    assert values.dtype == np.float32
    assert abs(values.mean()) < 0.01 * deviation
    assert abs(values.std() / deviation - 1) < 0.01
    assert abs(values).max() <= deviation * 3**0.5 * 1.000001


def test_draws_are_the_same_on_every_machine() -> None:
    assert Uniform(1.0).draw((3,), seed=7, name="w").view(np.uint32).tolist() == [3213047505, 3213626736, 1050007697]


def test_parameters_of_one_shape_differ_by_their_names_and_seeds() -> None:
    draws = [Uniform(1.0).draw((50,), seed, name) for seed, name in [(1, "a"), (1, "b"), (2, "a")]]
    assert len({values.tobytes() for values in draws}) == 3


def test_a_seed_may_have_more_than_32_bits() -> None:
    assert (Uniform(1.0).draw((5,), 2**70, "w") != Uniform(1.0).draw((5,), 2**70 + 1, "w")).any()


def test_parameters_come_from_the_seed_and_constants_stay_constants() -> None:
    params = drawn(model, 7, INPUT)
    assert params["~"]["scale"].tolist() == [2.0, 2.0, 2.0]
    assert (params["~"]["weights"] == Uniform(0.5).draw((5, 3), 7, "~/weights")).all()


def test_drawn_parameters_fit_the_model() -> None:
    params = drawn(model, 7, INPUT)
    result = hk.transform(model).apply(params, None, np.ones((1, 5), np.float32))
    np.testing.assert_allclose(result[0], params["~"]["weights"].sum(axis=0) * 2, rtol=1e-5)


def test_repeated_numbers_are_those_of_the_sibling_block_by_block() -> None:
    key = Uniform(0.5).draw((3, 4), 7, "attention/key/w")
    query = Repeated(0.5, "key", width=2, times=3).draw((3, 12), 7, "attention/query/w")
    blocks = query.reshape(3, 2, 3, 2)
    assert all((blocks[:, :, time] == key.reshape(3, 2, 2)).all() for time in range(3))
