"""Decorators for Numba kernels: compiled at the first call, cached on disk, run without the interpreter's lock.

Compiled code contains the kernels that it calls. The name of the cache folder is therefore a digest of the sources of
all modules with kernels: an edit of one of them compiles all again, and a start without an edit compiles nothing.
"""

from collections.abc import Callable
from hashlib import blake2s
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numba
from numba.core import config as numba_config

F = TypeVar("F", bound=Callable[..., Any])
config: Any = numba_config

_PACKAGES = ("thunder_ingest", "phoenix")
_MARK = b"thunder_ingest.kernels"


def _cache_folder() -> str:
    here = Path(__file__).parent
    house = here.parents[1]
    digest = blake2s(digest_size=8)
    for source in sorted(path for package in _PACKAGES for path in (house / package).rglob("*.py")):
        text = source.read_bytes()
        if _MARK in text or source.parent == here:
            digest.update(text)
    return str(here / "__pycache__" / f"kernels-{digest.hexdigest()}")


_OURS = config.CACHE_DIR or _cache_folder()


def kernel(function: F) -> F:
    """Compile a function at its first call; it may use scalars, arrays, NamedTuples of both and other kernels."""
    return _compiled(function, "never", False)


def summing(function: F) -> F:
    """Compile like `kernel`, and let the compiler reorder sums of floats; the order is fixed once compiled."""
    return _compiled(function, "never", {"contract", "nsz", "reassoc"})


def inlined(function: F) -> F:
    """Compile like `kernel`, and inline the function into each kernel that calls it.

    A call counts a reference to each array that it passes, which takes longer than most of these functions.
    """
    return _compiled(function, "always", False)


def _compiled(function: F, inline: Literal["never", "always"], fastmath: set[str] | Literal[False]) -> F:
    theirs, config.CACHE_DIR = config.CACHE_DIR, _OURS
    try:
        compile_ = numba.njit(nogil=True, cache=True, error_model="numpy", inline=inline, fastmath=fastmath)
        return cast(F, compile_(function))
    finally:
        config.CACHE_DIR = theirs
