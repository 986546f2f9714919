"""What both models are built of below the transformer: projections, norms, lookups and means."""

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
    """A projection without bias that keeps the variance of what goes in, times gain squared."""
    return hk.Linear(size, with_bias=False, w_init=Uniform(gain * fan_in**-0.5), name=name)


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


def signed_actions(actions: Bool[Array, "*n A"]) -> Float[Array, "*n A"]:
    """+1 for each action taken and -1 for each other one; all 0 without any action, as on a post passed over."""
    taken = actions.astype(jnp.float32)
    return (2.0 * taken - 1.0) * jnp.max(taken, axis=-1, keepdims=True)


class HashTable(hk.Module):
    """An embedding table of which row 0 is nothing: it reads as a zero vector.

    Args:
        rows: how many, row 0 included.
        dim: their width.
        name: of the module.
        deviation: of the first numbers. Where a model is to learn rows, they had better begin small: what it first
            sees of an id is noise, which takes many examples to be forgotten.

    """

    def __init__(self, rows: int, dim: int, name: str, deviation: float = 1.0) -> None:
        super().__init__(name)
        self._shape = [rows, dim]
        self._first = Uniform(deviation)

    def __call__(self, rows: Int[Array, "*n"]) -> Float[Array, "*n D"]:
        """Look rows up."""
        return _lookup(hk.get_parameter("rows", self._shape, init=self._first), rows)

    def mean(self, rows: Int[Array, "*n S"]) -> Float[Array, "*n D"]:
        """Look rows up and average those that are something.

        The sum runs along S, a few lookups at a time: gathering everything before adding it up is 20 times slower on
        CPUs, where it takes longer than all the rest of a model.
        """
        total = _sum_of(hk.get_parameter("rows", self._shape, init=self._first), rows)
        count = jnp.sum((rows != 0).astype(total.dtype), axis=-1, keepdims=True)
        return total / jnp.maximum(count, 1.0)


@jax.custom_vjp
def _sum_of(table: Float[Array, "rows D"], rows: Int[Array, "*n S"]) -> Float[Array, "*n D"]:
    """The sum of rows along S; its derivative is added up in one table, where JAX would make one for each of S."""

    def add(total: Float[Array, "*n D"], next_rows: Int[Array, "*n"]) -> tuple[Float[Array, "*n D"], None]:
        return total + _lookup(table, next_rows), None

    none = jnp.zeros((*rows.shape[:-1], table.shape[1]), table.dtype)
    total, _ = jax.lax.scan(add, none, jnp.moveaxis(rows, -1, 0), unroll=_LOOKUPS_AT_ONCE)
    return total


def _sum_of_backwards(
    seen: tuple[Float[Array, "rows D"], Int[Array, "*n S"]], change: Float[Array, "*n D"]
) -> tuple[Float[Array, "rows D"], None]:
    table, rows = seen

    def add(total: Float[Array, "rows D"], next_rows: Int[Array, "*n"]) -> tuple[Float[Array, "rows D"], None]:
        kept = change * (next_rows != 0).astype(change.dtype)[..., None]
        return total.at[next_rows].add(kept, mode="drop"), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(table), jnp.moveaxis(rows, -1, 0))
    return total, None


_sum_of.defvjp(lambda table, rows: (_sum_of(table, rows), (table, rows)), _sum_of_backwards)


def _lookup(table: Float[Array, "rows D"], rows: Int[Array, "*n"]) -> Float[Array, "*n D"]:
    return jnp.take(table, rows, axis=0, mode="clip") * (rows != 0).astype(table.dtype)[..., None]


class HashedId(hk.Module):
    """A hashed id at the width of the model: the embeddings of its K rows side by side, then a projection."""

    def __init__(self, rows: int, table_dim: int, dim: int, name: str, deviation: float) -> None:
        super().__init__(name)
        self._table = HashTable(rows, table_dim, name="table", deviation=deviation)
        self._projection = linear(dim, HASHES * table_dim, name="projection")

    def __call__(self, rows: Int[Array, "*n K"]) -> Float[Array, "*n D"]:
        """Embed ids. One lookup for each function: on CPUs all in one take more than twice as long."""
        return self._projection(jnp.concatenate([self._table(rows[..., each]) for each in range(HASHES)], axis=-1))
