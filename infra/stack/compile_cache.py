"""The compile cache of JAX: models are compiled once per installation, not at each start."""

import os
from pathlib import Path

_DIRECTORY = "JAX_COMPILATION_CACHE_DIR"


def cache_directory() -> Path:
    """The directory that JAX's own variable names, else one in the user's cache directory."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(_DIRECTORY) or Path(caches) / "foryou" / "jax")


def compile_cache() -> dict[str, str]:
    """Environment variables with which JAX caches every program; variables that are set already stay."""
    wanted = {
        _DIRECTORY: str(cache_directory()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def is_filled() -> bool:
    """True if a worker compiled its models before."""
    return _marker().exists()


def mark_filled() -> None:
    """Note that a worker compiled its models."""
    if not is_filled():
        cache_directory().mkdir(parents=True, exist_ok=True)
        _marker().touch()


def _marker() -> Path:
    return cache_directory() / "foryou-compiled"
