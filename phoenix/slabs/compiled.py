"""Kernels: functions on arrays that are compiled to machine code, run without the interpreter's lock, and are cached.

The cache's folder is named after the sources of this package, because compiled code holds the kernels that it calls.
`thunder_ingest` has the same in little; neither package may know of the other.
"""

from collections.abc import Callable
from hashlib import blake2s
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numba
from numba.core import config as numba_config

F = TypeVar("F", bound=Callable[..., Any])
config: Any = numba_config


def _cache_folder() -> str:
    package = Path(__file__).parent
    sources = b"".join(source.read_bytes() for source in sorted(package.glob("*.py")))
    return str(package / "__pycache__" / f"kernels-{blake2s(sources, digest_size=8).hexdigest()}")


_OURS = config.CACHE_DIR or _cache_folder()


def kernel(function: F) -> F:
    """Compile a function at its first call; it may use scalars, arrays, NamedTuples of them and other kernels."""
    return _compiled(function, "never", False)


def summing(function: F) -> F:
    """The same for a function that adds up floats, in whatever order is fastest: one order for good once compiled."""
    return _compiled(function, "never", {"contract", "nsz", "reassoc"})


def inlined(function: F) -> F:
    """The same for a function that becomes part of each kernel that calls it: no reference is counted for the call."""
    return _compiled(function, "always", False)


def _compiled(function: F, inline: Literal["never", "always"], fastmath: set[str] | Literal[False]) -> F:
    theirs, config.CACHE_DIR = config.CACHE_DIR, _OURS
    try:
        compile_ = numba.njit(nogil=True, cache=True, error_model="numpy", inline=inline, fastmath=fastmath)
        return cast(F, compile_(function))
    finally:
        config.CACHE_DIR = theirs
