"""Kernels: functions on arrays that are compiled to machine code, run without the interpreter's lock, and are cached.

Compiled code holds the kernels that it calls inside itself, so it is kept in a folder named after the sources of this
package: an edit of any of them compiles anew, and a start without an edit compiles nothing.
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
    digest = blake2s(digest_size=8)
    for source in sorted(package.glob("*.py")):
        digest.update(source.read_bytes())
    return str(package / "__pycache__" / f"kernels-{digest.hexdigest()}")


_OURS = config.CACHE_DIR or _cache_folder()


def kernel(function: F) -> F:
    """Compile a function at its first call; it may use scalars, arrays, NamedTuples of them and other kernels."""
    return _compiled(function, "never")


def inlined(function: F) -> F:
    """The same for a function that becomes part of each kernel that calls it.

    A call that hands over many arrays counts a reference to each, which takes longer than most functions do.
    """
    return _compiled(function, "always")


def _compiled(function: F, inline: Literal["never", "always"]) -> F:
    theirs, config.CACHE_DIR = config.CACHE_DIR, _OURS
    try:
        return cast(F, numba.njit(nogil=True, cache=True, error_model="numpy", inline=inline)(function))
    finally:
        config.CACHE_DIR = theirs
