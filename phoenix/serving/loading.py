"""Which models a process serves: those that are announced, those of a checkpoint, or untrained ones."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from phoenix.serving.engine import Phoenix
from thunder_ingest.events import ModelPointer

log = logging.getLogger(__name__)


class Served(NamedTuple):
    """The models, and when they were announced: 0 where the settings named them."""

    model: Phoenix
    at: int


def served(checkpoint: str, config: str, seed: int) -> Phoenix:
    """The models of the newest checkpoint in a directory; where none is named, seeded ones.

    Raises:
        ValueError: one line that says what is wrong with the checkpoint or the configuration's name.

    """
    if not checkpoint:
        return Phoenix.seeded(config, seed)
    from phoenix.training.checkpoints import (
        phoenix_of,  # takes a second to import, which untrained models need not wait for
    )

    return phoenix_of(Path(checkpoint))


def served_first(pointers: Sequence[ModelPointer], checkpoint: str, config: str, seed: int) -> Served:
    """What a process begins with: the newest of what is announced that can be used, else what the settings name.

    Args:
        pointers: the newest first; those that cannot be used are logged.
        checkpoint: of the settings, like `config` and `seed`.
        config: likewise.
        seed: likewise.

    Raises:
        ValueError: like `served`, of the settings.

    """
    for pointer in pointers:
        try:
            return Served(announced(pointer), pointer.at)
        except ValueError as error:
            log.error("%s; the one before it is served", error)
    return Served(served(checkpoint, config, seed), 0)


def announced(pointer: ModelPointer, beside: Phoenix | None = None) -> Phoenix:
    """The models that are announced.

    Args:
        pointer: to their checkpoint.
        beside: the models that are served meanwhile: where the configuration is the same, nothing is compiled again.

    Raises:
        ValueError: one line that says why they cannot be served.

    """
    try:
        model = served(pointer.location, "", 0)
        if model.version != pointer.version:
            raise ValueError(f"{pointer.location} holds {model.version}")
    except (ValueError, OSError) as error:
        raise ValueError(f"model {pointer.version} was announced and cannot be used: {error}") from error
    return model.compiled_with(beside) if beside else model
