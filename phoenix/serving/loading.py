"""Load the models that a process serves: announced models, those of a checkpoint, or untrained ones."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from phoenix.serving.engine import Phoenix
from thunder_ingest.events import ModelPointer

log = logging.getLogger(__name__)


class CurrentModel(NamedTuple):
    """Models and the time of their announcement."""

    model: Phoenix
    at: int  # epoch ms; 0 for the models of the settings


def load_models(checkpoint: str, config: str, seed: int) -> Phoenix:
    """Return the models of the newest checkpoint in a directory, or seeded models if `checkpoint` is empty.

    Raises:
        ValueError: one line with the fault of the checkpoint or of the configuration's name.

    """
    if not checkpoint:
        return Phoenix.seeded(config, seed)
    # the import takes a second, and untrained models need none
    from phoenix.training.checkpoints import phoenix_of

    return phoenix_of(Path(checkpoint))


def load_first(pointers: Sequence[ModelPointer], checkpoint: str, config: str, seed: int) -> CurrentModel:
    """Return the first models of a process: the newest usable announced models, else those of the settings.

    Untrained models are for a system without announcements: they never replace announced ones.

    Args:
        pointers: announcements, newest first; unusable ones are logged and skipped.
        checkpoint: directory of checkpoints in the settings; "" for seeded models.
        config: name of the configuration in the settings, for seeded models.
        seed: seed in the settings, for seeded models.

    Raises:
        ValueError: no announced models are usable and the settings name no checkpoint, or its models are unusable, as
            in `load_models`.

    """
    unusable = list[ValueError]()
    for pointer in pointers:
        try:
            return CurrentModel(load_announced(pointer), pointer.at)
        except ValueError as error:
            log.error("%s; the one before it is served", error)
            unusable.append(error)
    if unusable and not checkpoint:
        raise ValueError(f"{unusable[0]}; no earlier one can be used, and no checkpoint is set")
    return CurrentModel(load_models(checkpoint, config, seed), 0)


def load_announced(pointer: ModelPointer, serving: Phoenix | None = None) -> Phoenix:
    """Load the models that an announcement names.

    Args:
        pointer: the announcement, with the path of the checkpoint.
        serving: the models in service; new models of the same configuration share their compiled functions.

    Raises:
        ValueError: one line with the reason why the models cannot be served.

    """
    try:
        model = load_models(pointer.location, "", 0)
        if model.version != pointer.version:
            raise ValueError(f"{pointer.location} holds {model.version}")
    except (ValueError, OSError) as error:
        raise ValueError(f"model {pointer.version} was announced and cannot be used: {error}") from error
    return model.compiled_with(serving) if serving else model
