"""The transformer of both models: pre-norm, grouped-query attention, and candidates that cannot attend to each other.

Shapes: see `phoenix.features.inputs`. In addition:

    S: positions of the prefix: the tokens of a viewer (the user token, if the model has one, then the history)
    L: positions of prefix, candidates, or both
    M: L, or 1 if all positions have the same mask
    N: key/value heads
    G: query heads that share one key/value head
    d: width of a head

The prefix attends to itself in both directions. A candidate attends to the prefix and to itself (candidate isolation,
as in the published Phoenix, `grok.py`). So the prefix's keys and values do not depend on candidates: `encode` computes
them once (prefix caching), and `attend` scores any number of candidates against them. `__call__` computes the same in
one pass over prefix and candidates under a mask.

Positions are right-anchored: the newest history item is at 0 for every length of the history, and all candidates are at
1. Rotary embedding uses the distance from the candidates, so candidates need no rotation.

Sources: rotary position embedding (Su et al. 2021), RMSNorm (Zhang and Sennrich 2019), pre-norm (Xiong et al. 2020),
grouped-query attention (Ainslie et al. 2023), query and key norm (Henry et al. 2020), gated GELU (Shazeer 2020).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from phoenix.models.configs import ModelConfig
from phoenix.models.initialisers import Repeated, Uniform
from phoenix.models.layers import linear, norm

_ROPE_BASE: Final = 10_000.0
_MASKED: Final = -1e30
_EPSILON: Final = 1e-5
_CANDIDATE_POSITION: Final = 1
_LEAST_SUM: Final = 1e-30
"""Lower bound of a softmax's denominator: a fully masked row has the sum 0, and its mean is then 0."""
_HIGHEST_LOGIT: Final = 70.0
"""Bound of attention logits. Normalised queries and keys reach it only with a tenfold learned scale.

With it, sums of exponentials neither overflow nor vanish, so the softmax need not find and subtract a maximum.
"""


class KeysValues(NamedTuple):
    """The prefix's keys and values in one block."""

    keys: Float[Array, "B N S d"]
    values: Float[Array, "B N S d"]


class Prefix(NamedTuple):
    """The encoded prefix of each viewer: everything that candidates attend to."""

    blocks: tuple[KeysValues, ...]
    mask: Bool[Array, "B S"]


def candidate_isolation(prefix_mask: Bool[Array, "B S"], candidates: int) -> Bool[Array, "B S+C S+C"]:
    """The attention mask: all positions attend to the valid prefix, and each candidate also to itself."""
    batch, length = prefix_mask.shape
    to_prefix = jnp.broadcast_to(prefix_mask[:, None, :], (batch, length + candidates, length))
    to_itself = jnp.concatenate([jnp.zeros((length, candidates), bool), jnp.eye(candidates, dtype=bool)])
    return jnp.concatenate([to_prefix, jnp.broadcast_to(to_itself[None], (batch, *to_itself.shape))], axis=-1)


def rotate(heads: Float[Array, "B N L ... d"], positions: Int[np.ndarray, " L"]) -> Float[Array, "B N L ... d"]:
    """Rotary position embedding (RoPE, Su et al. 2021): rotate feature pairs by angles proportional to the position.

    Positions are the same for all viewers, so sines and cosines are constants of the compiled function.
    """
    half = heads.shape[-1] // 2
    angles = positions[:, None] * _ROPE_BASE ** (-np.arange(half) / half)
    angles = angles.reshape(1, 1, len(positions), *(1,) * (heads.ndim - 4), half)
    cos, sin = np.cos(angles).astype(heads.dtype), np.sin(angles).astype(heads.dtype)
    left, right = heads[..., :half], heads[..., half:]
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


class Projection(hk.Linear):
    """A projection without bias that can also compute a part of its columns."""

    def __init__(self, size: int, first: Callable[..., Array], name: str) -> None:
        super().__init__(size, with_bias=False, w_init=first, name=name)

    def part(self, x: Float[Array, "*n D"], place: int, parts: int) -> Float[Array, "*n size/parts"]:
        """The columns of one of `parts` equal parts."""
        weights = hk.get_parameter("w", [x.shape[-1], self.output_size], x.dtype, init=self.w_init)
        size = self.output_size // parts
        return x @ weights[:, place * size : (place + 1) * size]


class HeadNorm(hk.RMSNorm):
    """RMSNorm, and separately its two factors."""

    def __init__(self, name: str) -> None:
        super().__init__(axis=-1, eps=_EPSILON, name=name)

    def scaled(self, heads: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """Multiply by the learned scale."""
        scale = hk.get_parameter("scale", heads.shape[-1:], heads.dtype, init=jnp.ones)
        return heads * jnp.broadcast_to(scale, heads.shape)

    def factor(self, heads: Float[Array, "*n d"]) -> Float[Array, "*n 1"]:
        """The reciprocal root mean square of each vector."""
        return jax.lax.rsqrt(jnp.mean(heads * heads, axis=-1, keepdims=True) + _EPSILON)


class Attention(hk.Module):
    """Grouped-query attention (Ainslie et al. 2023) with RMSNorm on queries and keys."""

    def __init__(self, config: ModelConfig, name: str) -> None:
        super().__init__(name)
        self._kv_heads, self._groups, self._width = config.kv_heads, config.heads // config.kv_heads, config.head_dim
        self._query = _queries(config)
        self._key = Projection(config.kv_heads * config.head_dim, Uniform(config.dim**-0.5), name="key")
        self._value = Projection(config.kv_heads * config.head_dim, Uniform(config.dim**-0.5), name="value")
        self._out = linear(config.dim, config.heads * config.head_dim, name="out", gain=residual_gain(config))
        self._query_norm, self._key_norm = HeadNorm("query_norm"), norm("key_norm")

    def project(
        self, x: Float[Array, "B L D"], distances: Int[np.ndarray, " L"]
    ) -> tuple[Float[Array, "B N L G d"], KeysValues]:
        """Queries, keys and values of positions with these distances from the candidates."""
        queries = self._query(x).reshape(*x.shape[:2], self._kv_heads, self._groups, self._width)
        keys = self._key(x).reshape(*x.shape[:2], self._kv_heads, self._width)
        values = self._value(x).reshape(*x.shape[:2], self._kv_heads, self._width)
        queries, keys, values = (jnp.swapaxes(heads, 1, 2) for heads in (queries, keys, values))
        queries, keys = self._query_norm(queries) * self._width**-0.5, self._key_norm(keys)
        return rotate(queries, distances), KeysValues(rotate(keys, distances), values)

    def over(
        self, queries: Float[Array, "B N L G d"], seen: KeysValues, mask: Bool[Array, "B M S"]
    ) -> Float[Array, "B L D"]:
        """Attend to the positions that the mask allows."""
        rows = queries.reshape(*queries.shape[:2], -1, self._width)  # L·G rows a head make one product of matrices
        allowed = jnp.repeat(mask, self._groups, axis=1) if mask.shape[1] > 1 else mask
        return self._merge(attended(rows, seen.keys, seen.values, allowed[:, None]).reshape(queries.shape))

    def over_prefix_and_self(
        self, x: Float[Array, "B C D"], prefix: KeysValues, mask: Bool[Array, "B S"]
    ) -> Float[Array, "B C D"]:
        """Attention of isolated candidates, without a C by C mask: each attends to the prefix and to its own key.

        It takes one key/value head after the other, from that head's columns of the weights. The head's C·G queries are
        then contiguous, and one matrix product serves them without a transposition. The norm of a query becomes a
        factor of its row of logits. The learned scale of queries multiplies the keys instead, which are fewer.
        """
        keys = self._query_norm.scaled(prefix.keys) * self._width**-0.5
        shut = jnp.where(mask, 0.0, _MASKED)[:, None]
        heads = range(self._kv_heads)
        return self._out(jnp.concatenate([self._head(x, n, keys[:, n], prefix.values[:, n], shut) for n in heads], -1))

    def _head(
        self,
        x: Float[Array, "B C D"],
        head: int,
        keys: Float[Array, "B S d"],
        values: Float[Array, "B S d"],
        shut: Float[Array, "B 1 S"],
    ) -> Float[Array, "B C G*d"]:
        """The output of one key/value head's queries over the prefix and their own position.

        The first position is computed separately: a prefix has one position more than a power of two, and a product
        with 128 columns takes three quarters of the time of one with 129.
        """
        queries = self._query.part(x, head, self._kv_heads).reshape(len(x), -1, self._width)
        own_key = self._query_norm.scaled(self._key_norm(self._key.part(x, head, self._kv_heads))) * self._width**-0.5
        own_value = self._value.part(x, head, self._kv_heads)
        grouped = (*x.shape[:2], self._groups, self._width)
        scale = self._query_norm.factor(queries)
        to_first = jnp.einsum("bqd,bd->bq", queries, keys[:, 0])[..., None]
        to_rest = jnp.einsum("bqd,bsd->bqs", queries, keys[:, 1:])
        to_self = jnp.einsum("bcgd,bcd->bcg", queries.reshape(grouped), own_key)[..., None]
        first_weight = jnp.exp(capped(to_first * scale) + shut[..., :1]).reshape(to_self.shape)
        weights = jnp.exp(capped(to_rest * scale) + shut[..., 1:])
        own_weight = jnp.exp(capped(to_self * scale.reshape(to_self.shape)))
        from_rest = jnp.einsum("bqs,bsd->bqd", weights, values[:, 1:]).reshape(grouped)
        from_others = first_weight * values[:, :1, None] + own_weight * own_value[..., None, :]
        total = jnp.sum(weights, axis=-1).reshape(to_self.shape) + first_weight + own_weight
        return ((from_rest + from_others) / total).reshape(*x.shape[:2], -1)

    def _merge(self, heads: Float[Array, "B N L G d"]) -> Float[Array, "B L D"]:
        side_by_side = jnp.swapaxes(heads, 1, 2)
        return self._out(side_by_side.reshape(*side_by_side.shape[:2], -1))


@jax.custom_vjp
def attended(
    queries: Float[Array, "B N R d"],
    keys: Float[Array, "B N S d"],
    values: Float[Array, "B N S d"],
    mask: Bool[Array, "B 1 M S"],
) -> Float[Array, "B N R d"]:
    """Softmax attention: the mean of the allowed values, weighted by the exponential of query times key.

    It has its own derivative. The one that JAX derives takes four times as long on CPUs: it misses the
    row-sum form of a softmax's gradient, and it transposes matrices.
    """
    exponentials = _exponentials(queries, keys, mask)
    total = jnp.maximum(jnp.sum(exponentials, axis=-1, keepdims=True), _LEAST_SUM)
    return jnp.einsum("bnrs,bnsd->bnrd", exponentials, values) / total


def _exponentials(queries: Array, keys: Array, mask: Array) -> Array:
    return jnp.exp(capped(jnp.einsum("bnrd,bnsd->bnrs", queries, keys)) + jnp.where(mask, 0.0, _MASKED))


_Residuals = tuple[Array, Array, Array, Array]


def _attended(queries: Array, keys: Array, values: Array, mask: Array) -> tuple[Array, _Residuals]:
    exponentials = _exponentials(queries, keys, mask)
    weights = exponentials / jnp.maximum(jnp.sum(exponentials, axis=-1, keepdims=True), _LEAST_SUM)
    return jnp.einsum("bnrs,bnsd->bnrd", weights, values), (queries, keys, values, weights)


def _attended_backwards(seen: _Residuals, change: Array) -> tuple[Array, Array, Array, None]:
    queries, keys, values, weights = seen
    of_weights = jnp.einsum("bnrd,bnsd->bnrs", change, values)
    of_logits = weights * (of_weights - jnp.sum(of_weights * weights, axis=-1, keepdims=True))
    return (
        jnp.einsum("bnrs,bnsd->bnrd", of_logits, keys),
        jnp.einsum("bnrs,bnrd->bnsd", of_logits, queries),
        jnp.einsum("bnrs,bnrd->bnsd", weights, change),
        None,
    )


attended.defvjp(_attended, _attended_backwards)


def _queries(config: ModelConfig) -> Projection:
    """The query projection; with `likeness_first` it starts equal to the keys, so positions attend to similar ones."""
    deviation = config.dim**-0.5
    keys = Repeated(deviation, "key", config.head_dim, config.heads // config.kv_heads)
    return Projection(config.heads * config.head_dim, keys if config.likeness_first else Uniform(deviation), "query")


def capped(logits: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Logits within ±_HIGHEST_LOGIT, safe to exponentiate."""
    return jnp.clip(logits, -_HIGHEST_LOGIT, _HIGHEST_LOGIT)


def residual_gain(config: ModelConfig) -> float:
    """Gain of the 2 · layers branches that add to the residual stream, so that all together keep its variance."""
    return float((2 * config.layers) ** -0.5)


class FeedForward(hk.Module):
    """Gated feed-forward layer (GEGLU, Shazeer 2020): gelu(x W) ⊙ x V, then a projection back to D."""

    def __init__(self, config: ModelConfig, name: str) -> None:
        super().__init__(name)
        hidden = -(-(config.widening * config.dim * 2 // 3) // 8) * 8  # a third less, so that the gate adds no weights
        self._gate = linear(hidden, config.dim, name="gate")
        self._up = linear(hidden, config.dim, name="up")
        self._down = linear(config.dim, hidden, name="down", gain=residual_gain(config))

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Transform each position separately."""
        return self._down(jax.nn.gelu(self._gate(x)) * self._up(x))


class Block(hk.Module):
    """A pre-norm block: attention, then feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig, name: str) -> None:
        super().__init__(name)
        self._attention_norm, self._attention = norm("attention_norm"), Attention(config, "attention")
        self._feed_forward_norm, self._feed_forward = norm("feed_forward_norm"), FeedForward(config, "feed_forward")

    def over_itself(
        self, x: Float[Array, "B L D"], distances: Int[np.ndarray, " L"], mask: Bool[Array, "B M L"]
    ) -> tuple[Float[Array, "B L D"], KeysValues]:
        """Apply the block to positions that attend to each other under the mask; returns also their keys and values."""
        queries, own = self._attention.project(self._attention_norm(x), distances)
        return self._finish(x, self._attention.over(queries, own, mask)), own

    def over_prefix(
        self, x: Float[Array, "B C D"], prefix: KeysValues, mask: Bool[Array, "B S"]
    ) -> Float[Array, "B C D"]:
        """Apply the block to candidates that attend to an encoded prefix."""
        return self._finish(x, self._attention.over_prefix_and_self(self._attention_norm(x), prefix, mask))

    def _finish(self, x: Float[Array, "B L D"], attended: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        x = x + attended
        return x + self._feed_forward(self._feed_forward_norm(x))


class Transformer(hk.Module):
    """The blocks and the final norm."""

    def __init__(self, config: ModelConfig, name: str = "transformer") -> None:
        super().__init__(name)
        self._blocks = [Block(config, f"block_{layer}") for layer in range(config.layers)]
        self._norm = norm("final_norm")

    def encode(
        self, x: Float[Array, "B S D"], positions: Int[np.ndarray, " S"], mask: Bool[Array, "B S"]
    ) -> tuple[Float[Array, "B S D"], Prefix]:
        """Encode the prefix: its hidden states, and the keys and values for candidates."""
        keys_values = []
        for block in self._blocks:
            x, own = block.over_itself(x, positions - _CANDIDATE_POSITION, mask[:, None])
            keys_values.append(own)
        return self._norm(x), Prefix(tuple(keys_values), mask)

    def attend(self, candidates: Float[Array, "B C D"], prefix: Prefix) -> Float[Array, "B C D"]:
        """The hidden states of candidates over an encoded prefix."""
        for block, keys_values in zip(self._blocks, prefix.blocks, strict=True):
            candidates = block.over_prefix(candidates, keys_values, prefix.mask)
        normed: Array = self._norm(candidates)
        return normed

    def __call__(
        self,
        prefix: Float[Array, "B S D"],
        positions: Int[np.ndarray, " S"],
        mask: Bool[Array, "B S"],
        candidates: Float[Array, "B C D"],
    ) -> Float[Array, "B C D"]:
        """Prefix and candidates in one pass: for training, and the reference that tests compare `attend` with."""
        count = candidates.shape[1]
        x = jnp.concatenate([prefix, candidates], axis=1)
        distances = np.concatenate([positions - _CANDIDATE_POSITION, np.zeros(count, positions.dtype)])
        allowed = candidate_isolation(mask, count)
        for block in self._blocks:
            x, _ = block.over_itself(x, distances, allowed)
        normed: Array = self._norm(x[:, prefix.shape[1] :])
        return normed
