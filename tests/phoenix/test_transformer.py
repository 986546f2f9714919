from collections.abc import Callable
from dataclasses import replace
from functools import partial

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from phoenix.configs import ModelConfig
from phoenix.seeding import drawn
from phoenix.transformer import Transformer, candidate_isolation, rotate
from tests.phoenix.builders import TOLERANCE

PREFIX, CANDIDATES = 6, 5


def inputs(config: ModelConfig, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Prefix, positions, mask, candidates."""
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.normal(size=(2, PREFIX, config.dim)), jnp.float32),
        jnp.arange(PREFIX) - PREFIX + 1,
        jnp.array([[True] * PREFIX, [False, False, True, True, False, True]]),
        jnp.asarray(rng.normal(size=(2, CANDIDATES, config.dim)), jnp.float32),
    )


def in_one_pass(config: ModelConfig, *given: Array) -> Array:
    return Transformer(config)(*given)


def in_two_steps(config: ModelConfig, prefix: Array, positions: Array, mask: Array, candidates: Array) -> Array:
    transformer = Transformer(config)
    return transformer.attend(candidates, transformer.encode(prefix, positions, mask)[1])


def applied(model: Callable[..., Array], config: ModelConfig, *given: Array) -> Array:
    params = drawn(partial(in_one_pass, config), 3, *given)
    result: Array = jax.jit(hk.transform(partial(model, config)).apply)(params, None, *given)
    return result


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_a_prefix_encoded_once_gives_what_one_pass_under_the_mask_gives(tiny: ModelConfig, kv_heads: int) -> None:
    config = replace(tiny, layers=2, kv_heads=kv_heads)
    parts, whole = (applied(model, config, *inputs(config)) for model in (in_two_steps, in_one_pass))
    np.testing.assert_allclose(parts, whole, rtol=TOLERANCE, atol=TOLERANCE)


def test_masked_positions_of_the_prefix_change_nothing(tiny: ModelConfig) -> None:
    prefix, positions, mask, candidates = inputs(tiny)
    disturbed = jnp.where(mask[..., None], prefix, 1e3)
    before, after = (applied(in_two_steps, tiny, each, positions, mask, candidates) for each in (prefix, disturbed))
    np.testing.assert_array_equal(before, after)


def test_the_mask_shows_candidates_the_prefix_and_themselves_only() -> None:
    allowed = candidate_isolation(jnp.array([[True, False]]), 3)[0]
    assert allowed.astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [1, 0, 0, 0, 1],
    ]


def test_attention_depends_on_distances_and_not_on_places() -> None:
    heads = jax.random.normal(jax.random.PRNGKey(0), (1, 1, 4, 8))
    positions = jnp.arange(4)

    def products(positions: Array) -> Array:
        rotated = rotate(heads, positions)
        return jnp.einsum("bnld,bnsd->ls", rotated, rotated)

    near, far = jax.jit(products)(positions), jax.jit(products)(positions - 900)
    np.testing.assert_allclose(near, far, atol=1e-3)
    assert not np.allclose(near, jax.jit(products)(positions * 2), atol=1e-1)
