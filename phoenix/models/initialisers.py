"""Parameters drawn from a seed: the same bits on every machine, whatever its processor and its JAX.

Two workers that were seeded alike must agree on the model's version, which is a digest of all parameters, or they would
ignore each other's vectors. So parameters are not drawn by JAX, whose fused arithmetic may round differently elsewhere,
but by NumPy from a bit generator of fixed definition, with one rounding a number. Each parameter has a stream of its
own, named after it: adding one leaves the others as they are. Nothing is compiled for this, which makes it quick.
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
"""Draws are multiples of 1/_STEPS in [-1, 1), each of which float32 holds exactly, before they are scaled."""


@dataclass(frozen=True)
class Uniform:
    """An initialiser: uniform numbers of mean 0. `drawn` sees to it that they come from the seed.

    Attributes:
        deviation: their standard deviation.

    """

    deviation: float

    def __call__(self, shape: Any, dtype: Any) -> Array:
        """What Haiku calls; stands in for the numbers where only shapes are asked for."""
        return jnp.zeros(shape, dtype)

    def draw(self, shape: tuple[int, ...], seed: int, name: str) -> Float32[np.ndarray, "..."]:
        """The numbers of the parameter of that name."""
        count = int(np.prod(shape))
        stream = np.random.PCG64(np.random.SeedSequence([seed, xxhash.xxh32_intdigest(name.encode())]))
        bits = stream.random_raw((count + 1) // 2).astype("<u8").view("<u4")[:count]
        centred = (bits >> np.uint32(8)).astype(np.int32) - _STEPS
        return (centred.astype(np.float32) * np.float32(self.deviation * 3**0.5 / _STEPS)).reshape(shape)


@dataclass(frozen=True)
class Repeated(Uniform):
    """The numbers of another parameter of the same module, each block of columns several times in a row.

    Attributes:
        sibling: the name of the module that has them, where the parameter's own module stands.
        width: columns of a block.
        times: how often each block comes.

    """

    sibling: str
    width: int
    times: int

    def draw(self, shape: tuple[int, ...], seed: int, name: str) -> Float32[np.ndarray, "..."]:
        """The numbers of the parameter of that name."""
        above, _, parameter = name.rsplit("/", 2)
        once = super().draw((shape[0], shape[1] // self.times), seed, f"{above}/{self.sibling}/{parameter}")
        blocks = once.reshape(shape[0], -1, 1, self.width)
        return np.repeat(blocks, self.times, axis=2).reshape(shape)


def drawn(model: Callable[..., Any], seed: int, *inputs: Any) -> hk.Params:
    """The parameters that a Haiku function creates when it is called with inputs of these shapes."""
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

    jax.eval_shape(hk.transform(created).init, jax.random.PRNGKey(0), *inputs)
    return params
