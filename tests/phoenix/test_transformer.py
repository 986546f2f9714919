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


def in_two_steps(config: ModelConfig, prefix: Array, positions: Array, mask: Array, candidates: Array) -> Array:
    transformer = Transformer(config)
    return transformer.attend(candidates, transformer.encode(prefix, positions, mask)[1])


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
def test_a_prefix_encoded_once_gives_what_one_pass_under_the_mask_gives(layers: int, heads: int, kv_heads: int) -> None:
    config = ModelConfig(
        name="probe", dim=16, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=4, history=6, tokens=1,
        table_dim=4, embed_dim=4, user_rows=9, post_rows=9, author_rows=9, token_rows=9,
    )  # fmt: skip
    params = drawn(lambda *given: Transformer(config)(*given), 3, *inputs(config))
    whole = hk.transform(lambda *given: Transformer(config)(*given)).apply(params, None, *inputs(config))
    parts = hk.transform(lambda *given: in_two_steps(config, *given)).apply(params, None, *inputs(config))
    np.testing.assert_allclose(parts, whole, rtol=TOLERANCE, atol=TOLERANCE)


def test_masked_positions_of_the_prefix_change_nothing(tiny: ModelConfig) -> None:
    prefix, positions, mask, candidates = inputs(tiny)
    params = drawn(lambda *given: Transformer(tiny)(*given), 3, *inputs(tiny))
    apply = hk.transform(lambda *given: in_two_steps(tiny, *given)).apply
    disturbed = jnp.where(mask[..., None], prefix, 1e3)
    before, after = (apply(params, None, given, positions, mask, candidates) for given in (prefix, disturbed))
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
    near = jnp.einsum("bnld,bnsd->ls", rotate(heads, positions), rotate(heads, positions))
    far = jnp.einsum("bnld,bnsd->ls", rotate(heads, positions - 900), rotate(heads, positions - 900))
    np.testing.assert_allclose(near, far, atol=1e-3)
