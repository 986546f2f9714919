from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array

from phoenix.models.configs import ModelConfig
from phoenix.models.initialisers import drawn
from phoenix.models.transformer import Transformer, attended, candidate_isolation, rotate
from tests.phoenix.builders import TOLERANCE

PREFIX, CANDIDATES = 6, 5
POSITIONS = np.arange(PREFIX) - PREFIX + 1


def inputs(config: ModelConfig, seed: int = 0) -> tuple[Array, Array, Array]:
    """Prefix, mask, candidates."""
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.normal(size=(2, PREFIX, config.dim)), jnp.float32),
        jnp.array([[True] * PREFIX, [False, False, True, True, False, True]]),
        jnp.asarray(rng.normal(size=(2, CANDIDATES, config.dim)), jnp.float32),
    )


def in_one_pass(config: ModelConfig, prefix: Array, mask: Array, candidates: Array) -> Array:
    return Transformer(config)(prefix, POSITIONS, mask, candidates)


def in_two_steps(config: ModelConfig, prefix: Array, mask: Array, candidates: Array) -> Array:
    transformer = Transformer(config)
    return transformer.attend(candidates, transformer.encode(prefix, POSITIONS, mask)[1])


@cache
def drawn_params(config: ModelConfig) -> hk.Params:
    return drawn(partial(in_one_pass, config), 3, *inputs(config))


@cache
def compiled(model: Callable[..., Array], config: ModelConfig) -> Callable[..., Array]:
    """The function of parameters and inputs; each is compiled once for all tests."""
    transformed: hk.Transformed = hk.without_apply_rng(hk.transform(partial(model, config)))
    apply: Callable[..., Array] = jax.jit(transformed.apply)
    return apply


def applied(model: Callable[..., Array], config: ModelConfig, *arguments: Array) -> Array:
    return compiled(model, config)(drawn_params(config), *arguments)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_an_encoded_prefix_gives_the_same_as_one_pass_under_the_mask(tiny: ModelConfig, kv_heads: int) -> None:
    config = replace(tiny, layers=2, kv_heads=kv_heads)
    parts, whole = (applied(model, config, *inputs(config)) for model in (in_two_steps, in_one_pass))
    np.testing.assert_allclose(parts, whole, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("model", [in_one_pass, in_two_steps])
@given(st.lists(st.booleans(), min_size=CANDIDATES, max_size=CANDIDATES), st.integers(0, 2**16))
@settings(deadline=None, max_examples=15)
def test_the_other_candidates_of_a_call_change_no_bit(
    tiny: ModelConfig, model: Callable[..., Array], replaced: list[bool], seed: int
) -> None:
    prefix, mask, candidates = inputs(tiny)
    others = inputs(tiny, seed + 1)[-1] * 10
    mixed = jnp.where(jnp.array(replaced)[None, :, None], others, candidates)
    before, after = (applied(model, tiny, prefix, mask, each) for each in (candidates, mixed))
    np.testing.assert_array_equal(before[:, ~np.array(replaced)], after[:, ~np.array(replaced)])


@pytest.mark.parametrize("model", [in_one_pass, in_two_steps])
def test_the_score_of_a_candidate_has_no_gradient_for_another_one(
    tiny: ModelConfig, model: Callable[..., Array]
) -> None:
    prefix, mask, candidates = inputs(tiny)

    def score(candidates: Array, scored: Array) -> Array:
        out = hk.transform(partial(model, tiny)).apply(drawn_params(tiny), None, prefix, mask, candidates)
        return jnp.sum(jnp.sin(out[:, scored]))

    gradient_of = jax.jit(jax.grad(score))  # compiled once for all candidates
    for scored in range(CANDIDATES):
        gradient = np.asarray(gradient_of(candidates, jnp.asarray(scored)))
        others = np.arange(CANDIDATES) != scored
        assert np.abs(gradient[:, scored]).min(axis=0).max() > 0
        np.testing.assert_array_equal(gradient[:, others], 0)


def test_the_pass_with_an_encoded_prefix_has_the_gradients_of_the_one_pass(tiny: ModelConfig) -> None:
    config = replace(tiny, layers=2)
    prefix, mask, candidates = inputs(config)
    params = drawn_params(config)

    def loss(model: Callable[..., Array], params: hk.Params, prefix: Array, candidates: Array) -> Array:
        out = hk.transform(partial(model, config)).apply(params, None, prefix, mask, candidates)
        return jnp.sum(jnp.sin(out))

    parts, whole = (
        jax.jit(jax.grad(partial(loss, model), argnums=(0, 1, 2)))(params, prefix, candidates)
        for model in (in_two_steps, in_one_pass)
    )
    for one, other in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * np.abs(other).max())


@pytest.mark.parametrize("scale", [0.0, 30.0, 1e6])
def test_large_learned_scales_leave_both_passes_finite_and_equal(tiny: ModelConfig, scale: float) -> None:
    arguments = inputs(tiny)
    params = drawn_params(tiny)
    scaled = hk.data_structures.map(
        lambda module, _, value: value * scale if module.endswith(("query_norm", "key_norm")) else value, params
    )
    parts, whole = (compiled(model, tiny)(scaled, *arguments) for model in (in_two_steps, in_one_pass))
    assert np.isfinite(parts).all()
    np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1e-3)


def test_masked_positions_of_the_prefix_change_nothing(tiny: ModelConfig) -> None:
    prefix, mask, candidates = inputs(tiny)
    disturbed = jnp.where(mask[..., None], prefix, 1e3)
    before, after = (applied(in_two_steps, tiny, each, mask, candidates) for each in (prefix, disturbed))
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
    positions = np.arange(4)

    def products(positions: np.ndarray) -> Array:
        rotated = rotate(heads, positions)
        return jnp.einsum("bnld,bnsd->ls", rotated, rotated)

    near, far = products(positions), products(positions - 900)
    np.testing.assert_allclose(near, far, atol=1e-3)
    assert not np.allclose(near, products(positions * 2), atol=1e-1)


def test_with_likeness_first_each_query_starts_equal_to_the_key_of_its_group(tiny: ModelConfig) -> None:
    config = replace(tiny, likeness_first=True)
    params = drawn_params(config)
    queries = [module for module in params if module.endswith("/query")]
    assert len(queries) == config.layers
    for module in queries:
        query = params[module]["w"].reshape(config.dim, config.kv_heads, -1, config.head_dim)
        key = params[module.removesuffix("query") + "key"]["w"].reshape(config.dim, config.kv_heads, 1, -1)
        np.testing.assert_array_equal(query, np.broadcast_to(key, query.shape))


@jax.jit
def by_softmax(inputs: tuple[Array, Array, Array], mask: Array, change: Array) -> tuple[Array, tuple[Array, ...]]:
    """Attention by its definition, and the derivative of its product with `change`."""

    def attention(queries: Array, keys: Array, values: Array) -> Array:
        logits = jnp.where(mask, jnp.einsum("bnrd,bnsd->bnrs", queries, keys), -jnp.inf)
        exponentials = jnp.exp(logits)  # a fully masked row has none
        total = jnp.sum(exponentials, axis=-1, keepdims=True)
        weights = jnp.where(total > 0, exponentials / jnp.where(total > 0, total, 1.0), 0.0)
        return jnp.einsum("bnrs,bnsd->bnrd", weights, values)

    result, backwards = jax.vjp(attention, *inputs)
    return result, backwards(change)


@jax.jit
def by_attended(inputs: tuple[Array, Array, Array], mask: Array, change: Array) -> tuple[Array, tuple[Array, ...]]:
    result, backwards = jax.vjp(lambda *inputs: attended(*inputs, mask), *inputs)
    return result, backwards(change)


# each shape is compiled, and each seed draws another mask
@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lengths=st.sampled_from([(1, 1), (1, 6), (6, 1), (3, 5)]), shared=st.booleans())
def test_attention_and_its_derivative_are_those_of_a_softmax(seed: int, lengths: tuple[int, int], shared: bool) -> None:
    rng, (rows, seen) = np.random.default_rng(seed), lengths
    queries, keys, values, change = (
        jnp.asarray(rng.normal(size=(2, 3, length, 4)), jnp.float32) for length in (rows, seen, seen, rows)
    )
    mask = jnp.asarray(rng.random((2, 1, 1 if shared else rows, seen)) < 0.7)
    expected, their_gradients = by_softmax((queries, keys, values), mask, change)
    found, our_gradients = by_attended((queries, keys, values), mask, change)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    for ours, theirs in zip(our_gradients, their_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=10 * TOLERANCE, atol=10 * TOLERANCE)
