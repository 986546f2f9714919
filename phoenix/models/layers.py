"""Layers that both models share below the transformer: projections, norms, embedding tables, means of embeddings.

Shapes: see `phoenix.features.inputs`. S: any axis to sum over.
"""

import haiku as hk
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from phoenix.features.hashing import HASHES
from phoenix.models.initialisers import Uniform

_EPSILON = 1e-6
_LOOKUPS_AT_ONCE = 8


def linear(size: int, fan_in: int, name: str, gain: float = 1.0) -> hk.Linear:
    """A projection without bias; the variance of its output is that of its input times gain²."""
    return hk.Linear(size, with_bias=False, w_init=Uniform(gain * fan_in**-0.5), name=name)


def norm(name: str) -> hk.RMSNorm:
    """RMSNorm (Zhang and Sennrich 2019) over the last axis, with a learned scale."""
    return hk.RMSNorm(axis=-1, eps=1e-5, name=name)


def unit(vectors: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
    """Vectors scaled to length 1; a zero vector stays zero."""
    squared = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared, _EPSILON**2))


def masked_mean(vectors: Float[Array, "*n S D"], mask: Bool[Array, "*n S"]) -> Float[Array, "*n D"]:
    """The mean of the vectors with a True mask; 0 without any."""
    kept = mask.astype(vectors.dtype)[..., None]
    return jnp.sum(vectors * kept, axis=-2) / jnp.maximum(jnp.sum(kept, axis=-2), 1.0)


def signed_actions(actions: Bool[Array, "*n A"], recorded: Bool[Array, "*n A"]) -> Float[Array, "*n A"]:
    """+1 for each action taken, -1 for each other one that was recorded, 0 for an unknown one.

    All are 0 without any action, as on a post passed over.
    """
    taken = actions.astype(jnp.float32)
    refused = (recorded & ~actions).astype(jnp.float32)
    return (taken - refused) * jnp.max(taken, axis=-1, keepdims=True)


class HashTable(hk.Module):
    """An embedding table; row 0, the absent id, reads as a zero vector.

    Args:
        rows: number of rows, row 0 included.
        dim: width of a row.
        name: name of the module.
        deviation: standard deviation of the initial numbers. Learned rows should start small: the initial embedding of
            an id is noise, and training needs many examples to remove it.

    """

    def __init__(self, rows: int, dim: int, name: str, deviation: float = 1.0) -> None:
        super().__init__(name)
        self._shape = [rows, dim]
        self._first = Uniform(deviation)

    def __call__(self, rows: Int[Array, "*n"]) -> Float[Array, "*n D"]:
        """Look rows up."""
        return _lookup(hk.get_parameter("rows", self._shape, init=self._first), rows)

    def mean(self, rows: Int[Array, "*n S"]) -> Float[Array, "*n D"]:
        """Look rows up and average them along S, without row 0.

        The sum takes a few lookups at a time: on CPUs, gathering all rows first is 20 times slower and takes longer
        than the rest of the model.
        """
        total = _sum_of(hk.get_parameter("rows", self._shape, init=self._first), rows)
        count = jnp.sum((rows != 0).astype(total.dtype), axis=-1, keepdims=True)
        return total / jnp.maximum(count, 1.0)


@jax.custom_vjp
def _sum_of(table: Float[Array, "R D"], rows: Int[Array, "*n S"]) -> Float[Array, "*n D"]:
    """The sum of rows along S. Its derivative adds up in one table; JAX would make one table for each of S."""

    def add(total: Float[Array, "*n D"], next_rows: Int[Array, "*n"]) -> tuple[Float[Array, "*n D"], None]:
        return total + _lookup(table, next_rows), None

    none = jnp.zeros((*rows.shape[:-1], table.shape[1]), table.dtype)
    total, _ = jax.lax.scan(add, none, jnp.moveaxis(rows, -1, 0), unroll=_LOOKUPS_AT_ONCE)
    return total


def _sum_of_backwards(
    seen: tuple[Float[Array, "R D"], Int[Array, "*n S"]], change: Float[Array, "*n D"]
) -> tuple[Float[Array, "R D"], None]:
    table, rows = seen

    def add(total: Float[Array, "R D"], next_rows: Int[Array, "*n"]) -> tuple[Float[Array, "R D"], None]:
        kept = change * (next_rows != 0).astype(change.dtype)[..., None]
        return total.at[next_rows].add(kept, mode="drop"), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(table), jnp.moveaxis(rows, -1, 0))
    return total, None


_sum_of.defvjp(lambda table, rows: (_sum_of(table, rows), (table, rows)), _sum_of_backwards)


def _lookup(table: Float[Array, "R D"], rows: Int[Array, "*n"]) -> Float[Array, "*n D"]:
    return jnp.take(table, rows, axis=0, mode="clip") * (rows != 0).astype(table.dtype)[..., None]


class HashedId(hk.Module):
    """A hashed id at width D: the embeddings of its K rows, concatenated and projected (hash embeddings)."""

    def __init__(self, rows: int, table_dim: int, dim: int, name: str, deviation: float) -> None:
        super().__init__(name)
        self._table = HashTable(rows, table_dim, name="table", deviation=deviation)
        self._projection = linear(dim, HASHES * table_dim, name="projection")

    def __call__(self, rows: Int[Array, "*n K"]) -> Float[Array, "*n D"]:
        """Embed ids, with one lookup for each hash function: on CPUs, a joint lookup takes more than twice as long."""
        return self._projection(jnp.concatenate([self._table(rows[..., each]) for each in range(HASHES)], axis=-1))
