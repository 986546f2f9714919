"""Initialisers of parameters: numbers from a seed, the same bits on every machine, processor and version of JAX.

A model's version contains a digest of all its parameters. Two workers with the same seed must get the same version,
otherwise each ignores the vectors of the other. JAX's fused arithmetic may round differently on another machine, so
NumPy draws the numbers from a bit generator with a fixed definition (PCG64, O'Neill 2014), with one rounding each. Each
parameter has its own stream, seeded with its name: a new parameter leaves the others unchanged. Nothing is compiled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import xxhash
from jax import Array
from jaxtyping import Float32

_STEPS: Final = 2**23
"""Before scaling, draws are multiples of 1/_STEPS in [-1, 1); float32 holds each exactly."""


@dataclass(frozen=True)
class Uniform:
    """An initialiser: uniform numbers of mean 0, which `drawn` draws from the seed.

    Attributes:
        deviation: the standard deviation of the numbers.

    """

    deviation: float

    def __call__(self, shape: Any, dtype: Any) -> Array:
        """Zeros as placeholders for Haiku; `drawn` replaces them by `draw`."""
        return jnp.zeros(shape, dtype)

    def draw(self, shape: tuple[int, ...], seed: int, name: str) -> Float32[np.ndarray, "..."]:
        """Draw the numbers of the parameter with that name."""
        count = int(np.prod(shape))
        stream = np.random.PCG64(np.random.SeedSequence([seed, xxhash.xxh32_intdigest(name.encode())]))
        bits = stream.random_raw((count + 1) // 2).astype("<u8").view("<u4")[:count]
        centred = (bits >> np.uint32(8)).astype(np.int32) - _STEPS
        return (centred.astype(np.float32) * np.float32(self.deviation * 3**0.5 / _STEPS)).reshape(shape)


@dataclass(frozen=True)
class Repeated(Uniform):
    """An initialiser: the numbers of the same parameter in a sibling module, each block of columns several times.

    Attributes:
        sibling: name of the module with the original numbers, under the same parent module.
        width: columns of a block.
        times: copies of each block, side by side.

    """

    sibling: str
    width: int
    times: int

    def draw(self, shape: tuple[int, ...], seed: int, name: str) -> Float32[np.ndarray, "..."]:
        """Draw the numbers of the parameter with that name."""
        above, _, parameter = name.rsplit("/", 2)
        once = super().draw((shape[0], shape[1] // self.times), seed, f"{above}/{self.sibling}/{parameter}")
        blocks = once.reshape(shape[0], -1, 1, self.width)
        return np.repeat(blocks, self.times, axis=2).reshape(shape)


def drawn(model: Callable[..., Any], seed: int, *inputs: Any) -> hk.Params:
    """The parameters that a Haiku function creates for inputs of these shapes, drawn from a seed."""
    params: dict[str, dict[str, Array]] = {}

    def create(_: Any, shape: Any, dtype: Any, initialiser: Any, context: hk.GetterContext) -> Array:
        if isinstance(initialiser, Uniform):
            value: Any = initialiser.draw(tuple(shape), seed, context.full_name)
        else:
            with jax.ensure_compile_time_eval():
                value = np.array(initialiser(shape, dtype))
        params.setdefault(context.module_name, {})[context.name] = value
        return jnp.zeros(shape, dtype)

    def created(*arguments: Any) -> None:
        with hk.custom_creator(create):
            model(*arguments)

    jax.eval_shape(hk.transform(created).init, None, *inputs)  # no random key: making one compiles
    return params
