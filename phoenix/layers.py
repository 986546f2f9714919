"""What both models are built of below the transformer: parameters that every machine draws alike, and lookups.

Parameters are drawn from a uniform distribution by integer arithmetic and a single multiplication. So a seed gives the
same bits on every processor, and two workers that were seeded alike can tell by the version that they agree.
"""

import haiku as hk
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

_STEPS = 2**23
"""Uniform numbers are multiples of 1/_STEPS in [-1, 1): float32 holds each exactly."""
_EPSILON = 1e-6


def uniform(deviation: float) -> hk.initializers.Initializer:
    """Draws of mean 0 and the given standard deviation."""
    step = deviation * 3**0.5 / _STEPS

    def draw(shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        bits = jax.random.bits(hk.next_rng_key(), tuple(shape), jnp.uint32)
        centred = (bits >> 8).astype(jnp.int32) - _STEPS
        return centred.astype(dtype) * jnp.asarray(step, dtype)

    return draw


def linear(size: int, fan_in: int, name: str, gain: float = 1.0) -> hk.Linear:
    """A projection without bias that keeps the variance of what goes in, times gain squared."""
    return hk.Linear(size, with_bias=False, w_init=uniform(gain * fan_in**-0.5), name=name)


def norm(name: str) -> hk.RMSNorm:
    """RMSNorm over the last axis, with a learned scale."""
    return hk.RMSNorm(axis=-1, eps=1e-5, name=name)


def unit(vectors: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
    """Vectors scaled to length 1; one of length 0 stays what it is."""
    squared = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared, _EPSILON**2))


def masked_mean(vectors: Float[Array, "*n S D"], mask: Bool[Array, "*n S"]) -> Float[Array, "*n D"]:
    """The mean of those vectors that the mask keeps; 0 where it keeps none."""
    kept = mask.astype(vectors.dtype)[..., None]
    return jnp.sum(vectors * kept, axis=-2) / jnp.maximum(jnp.sum(kept, axis=-2), 1.0)


class HashTable(hk.Module):
    """An embedding table of which row 0 is nothing: it reads as a zero vector."""

    def __init__(self, rows: int, dim: int, name: str) -> None:
        super().__init__(name)
        self._shape = [rows, dim]

    def __call__(self, rows: Int[Array, "*n"]) -> Float[Array, "*n D"]:
        """Look rows up."""
        table = hk.get_parameter("rows", self._shape, init=uniform(1.0))
        found = jnp.take(table, rows, axis=0, mode="clip")
        return found * (rows != 0).astype(found.dtype)[..., None]

    def mean(self, rows: Int[Array, "*n S"]) -> Float[Array, "*n D"]:
        """Look rows up and average those that are something."""
        table = hk.get_parameter("rows", self._shape, init=uniform(1.0))
        return masked_mean(jnp.take(table, rows, axis=0, mode="clip"), rows != 0)


class HashedId(hk.Module):
    """A hashed id at the width of the model: the embeddings of its K rows side by side, then a projection."""

    def __init__(self, rows: int, table_dim: int, dim: int, name: str) -> None:
        super().__init__(name)
        self._table = HashTable(rows, table_dim, name="table")
        self._dim = dim

    def __call__(self, rows: Int[Array, "*n K"]) -> Float[Array, "*n D"]:
        """Embed ids."""
        side_by_side = self._table(rows).reshape(*rows.shape[:-1], -1)
        return linear(self._dim, side_by_side.shape[-1], name="projection")(side_by_side)
