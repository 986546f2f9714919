"""Floating-point operations of a model, for its utilisation: the share of the machine's peak that it reaches."""

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters.partial_eval import dce_jaxpr


def matmul_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Floating-point operations of the matrix products in a function, two for each multiplication.

    The count comes from the traced function, so it follows every change of the model. As usual (PaLM, Chowdhery et al.
    2022), only matrix products count: norms, exponentials and lookups do not, nor does dead code. Each round of a loop
    counts.

    Args:
        function: the function to trace.
        arguments: arrays, or `jax.ShapeDtypeStruct`s.

    Raises:
        ValueError: the count depends on values: there are products in a `cond` or a `while`.

    """
    traced = jax.make_jaxpr(function)(*arguments).jaxpr
    needed, _ = dce_jaxpr(traced, [True] * len(traced.outvars))
    return _flops(needed)


def _flops(jaxpr: Jaxpr) -> int:
    return sum(_flops_of(equation) for equation in jaxpr.eqns)


def _flops_of(equation: JaxprEqn) -> int:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left: Any = equation.invars[0].aval
        out: Any = equation.outvars[0].aval
        flops: int = 2 * prod(out.shape) * prod(left.shape[axis] for axis in contracted)
        return flops
    inside = sum(_flops(jaxpr) for jaxpr in _jaxprs(equation.params))
    if inside and name in ("cond", "while"):
        raise ValueError(f"the number of products in a {name} depends on values")
    return inside * int(equation.params.get("length", 1)) if name == "scan" else inside


def _jaxprs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, Jaxpr):
                yield each
