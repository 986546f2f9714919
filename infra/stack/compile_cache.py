"""The compile cache of JAX, and the marker of a first start: models are compiled once per installation."""

import os
from importlib.metadata import version
from pathlib import Path
from zlib import crc32

import zstandard

_DIRECTORY = "JAX_COMPILATION_CACHE_DIR"


def cache_directory() -> Path:
    """The directory that JAX's own variable names, else one in the user's cache directory."""
    return Path(os.environ.get(_DIRECTORY) or _own_directory())


def compile_cache() -> dict[str, str]:
    """Environment variables with which JAX caches every program; variables that are set already stay."""
    wanted = {
        _DIRECTORY: str(cache_directory()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return {name: os.environ.get(name) or value for name, value in wanted.items()}


def drop_damaged() -> None:
    """Delete entries of the own cache directory that a kill cut short.

    JAX warns of a damaged entry at each start, and never replaces it. A directory that a variable names may belong to
    other programs, so its entries stay.
    """
    if os.environ.get(_DIRECTORY):
        return
    for entry in _own_directory().glob("*-cache"):
        try:
            zstandard.ZstdDecompressor().decompress(entry.read_bytes())
        except zstandard.ZstdError:
            entry.unlink(missing_ok=True)


def is_filled() -> bool:
    """True if a worker of this installation compiled its models and kernels before, with this version of JAX."""
    return _marker().exists()


def mark_filled() -> None:
    """Note that a worker compiled its models."""
    if not is_filled():
        cache_directory().mkdir(parents=True, exist_ok=True)
        _marker().touch()


def _own_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foryou" / "jax"


def _marker() -> Path:
    # Numba's cache lies beside the code, so another place of the code compiles again
    place = crc32(str(Path(__file__).parent).encode())
    return cache_directory() / f"foryou-{version('foryou')}-jax-{version('jax')}-{place:08x}"
