"""The peak rates of the machine, measured with JAX: float32 matrix products and memory bandwidth."""

import time
from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
from jax import Array

_SQUARES: Final = (1_024, 2_048)
"""Sizes of the matrices. Caches decide which size is faster; the better rate counts."""
_READ_BYTES: Final = 256 << 20
_TRIES: Final = 3


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Machine:
    """The machine's peak rates. Benchmarks alternate them with their own work, so that other load slows both alike."""

    def __init__(self) -> None:
        self._product, self._total = jax.jit(jnp.matmul), jax.jit(jnp.sum)
        self._squares = [jnp.full((size, size), 0.5, jnp.float32) for size in _SQUARES]
        self._memory = jnp.zeros(_READ_BYTES // 4, jnp.float32)
        self.flops_per_second()
        self.bytes_per_second()

    def flops_per_second(self) -> float:
        """Peak rate of float32 matrix products, the best of a few tries."""
        return max(self._multiply(square) for square in self._squares for _ in range(_TRIES))

    def bytes_per_second(self) -> float:
        """Memory bandwidth of a sum, the best of a few tries."""
        return _READ_BYTES / min(seconds(lambda: self._total(self._memory).block_until_ready()) for _ in range(_TRIES))

    def _multiply(self, square: Array) -> float:
        return 2 * len(square) ** 3 / seconds(lambda: self._product(square, square).block_until_ready())
