"""Loading of the models that a process serves: announced ones, those of a checkpoint, or untrained ones."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from phoenix.serving.engine import Phoenix
from thunder_ingest.events import ModelPointer

log = logging.getLogger(__name__)


class Served(NamedTuple):
    """Models and the time of their announcement."""

    model: Phoenix
    at: int  # epoch ms; 0 for the models of the settings


def served(checkpoint: str, config: str, seed: int) -> Phoenix:
    """The models of the newest checkpoint in a directory, or seeded models if `checkpoint` is empty.

    Raises:
        ValueError: one line with the fault of the checkpoint or of the configuration's name.

    """
    if not checkpoint:
        return Phoenix.seeded(config, seed)
    from phoenix.training.checkpoints import phoenix_of  # its import takes a second; untrained models need it not

    return phoenix_of(Path(checkpoint))


def served_first(pointers: Sequence[ModelPointer], checkpoint: str, config: str, seed: int) -> Served:
    """The models that a process serves first: the newest usable announced ones, else those of the settings.

    Args:
        pointers: announcements, the newest first; unusable ones are logged.
        checkpoint: directory of checkpoints in the settings; "" for seeded models.
        config: name of the configuration in the settings, for seeded models.
        seed: seed in the settings, for seeded models.

    Raises:
        ValueError: the models of the settings are unusable, as in `served`.

    """
    for pointer in pointers:
        try:
            return Served(announced(pointer), pointer.at)
        except ValueError as error:
            log.error("%s; the one before it is served", error)
    return Served(served(checkpoint, config, seed), 0)


def announced(pointer: ModelPointer, beside: Phoenix | None = None) -> Phoenix:
    """The announced models.

    Args:
        pointer: the announcement, with the path of the checkpoint.
        beside: the models in service; with the same configuration, the new models share their compiled functions.

    Raises:
        ValueError: one line with the reason why the models cannot be served.

    """
    try:
        model = served(pointer.location, "", 0)
        if model.version != pointer.version:
            raise ValueError(f"{pointer.location} holds {model.version}")
    except (ValueError, OSError) as error:
        raise ValueError(f"model {pointer.version} was announced and cannot be used: {error}") from error
    return model.compiled_with(beside) if beside else model
