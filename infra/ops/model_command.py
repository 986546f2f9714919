"""Read the current model, or announce another one."""

from pathlib import Path
from typing import Literal

import msgspec

from infra.ports.settings import Settings
from phoenix.serving.model_topic import announce, read_model_records
from thunder_ingest.events import ModelPointer


class CurrentModel(msgspec.Struct):
    """The model that running flows and workers switch to, and that new ones load.

    `version` is None for a model of the settings: only a process that loads the model computes its version.
    """

    source: Literal["announced", "settings"]
    version: str | None
    location: str
    at: int | None = None


def current(settings: Settings) -> CurrentModel:
    """The model that was announced last, otherwise the model of the settings.

    Raises:
        BrokerUnreachable, TopicMissing: as `read_model_records`.

    """
    for pointer in read_model_records(settings):
        return _of(pointer)
    seeded = f"seeded: {settings.model}, seed {settings.model_seed}"
    return CurrentModel("settings", None, settings.checkpoint or seeded)


def use(settings: Settings, directory: Path) -> CurrentModel:
    """Announce a checkpoint, or the newest one of a directory, after reading all of it.

    Raises:
        CheckpointError: the checkpoint cannot be served.
        BrokerUnreachable, TopicMissing, DeliveryFailed: as `announce`.

    """
    from phoenix.training.checkpoints import keep_announced, newest_phoenix

    checkpoint, model = newest_phoenix(directory)
    keep_announced(checkpoint)
    return _of(announce(settings, model.version, str(checkpoint.resolve())))


def _of(pointer: ModelPointer) -> CurrentModel:
    return CurrentModel("announced", pointer.version, pointer.location, pointer.at)
