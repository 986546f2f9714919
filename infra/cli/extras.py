"""The extra that a command needs."""

from collections.abc import Sequence
from typing import Final

from infra.ports.extras import extra_line, is_of_an_extra

_EXTRAS: Final = {"train": "train", "evaluate": "train", "demo": "embedded"}


def missing_extra(error: ModuleNotFoundError, arguments: Sequence[str]) -> str | None:
    """The line that names the missing extra, None if the missing module belongs to no extra.

    Args:
        error: the import that failed.
        arguments: those of `foryou`.

    """
    if not is_of_an_extra(error):
        return None
    words = [argument for argument in arguments if not argument.startswith("-")]
    command = words[0] if words else ""
    extra = _EXTRAS.get(command, "serve")
    if (command == "up" and "--external" not in arguments) or (command == "replay" and "--embedded" in arguments):
        extra = "embedded"
    return extra_line(f"foryou {command}", extra)
