"""`foryou models`: which model is current, and making another one so."""

from pathlib import Path
from typing import Literal

import msgspec
from rich.table import Table

from infra.ports.settings import Settings
from infra.terminal.tables import counts_table, moment
from phoenix.serving.model_topic import announce, announced
from thunder_ingest.events import ModelPointer


class CurrentModel(msgspec.Struct):
    """The model that flows and workers go over to, or begin with.

    Of what the settings name, nobody has computed the version before it is loaded.
    """

    source: Literal["announced", "settings"]
    version: str | None
    location: str
    at: int | None = None


def current(settings: Settings) -> CurrentModel:
    """The one that was announced last, else that of the settings; raises BrokerUnreachable, TopicMissing."""
    for pointer in announced(settings):
        return _of(pointer)
    seeded = f"seeded: {settings.model}, seed {settings.model_seed}"
    return CurrentModel("settings", None, settings.checkpoint or seeded)


def use(settings: Settings, directory: Path) -> CurrentModel:
    """Announce a checkpoint, or the newest in a directory, once it has been read whole.

    Raises:
        CheckpointError: it cannot be served.
        BrokerUnreachable, TopicMissing, DeliveryFailed: like `announce`.

    """
    from phoenix.training.checkpoints import newest, phoenix_of
    from phoenix.training.model_card import CheckpointError

    checkpoint = newest(directory)
    if checkpoint is None:
        raise CheckpointError(f"{directory} holds no checkpoint")
    return _of(announce(settings, phoenix_of(checkpoint).version, str(checkpoint.resolve())))


def table(model: CurrentModel) -> Table:
    """The model on a terminal."""
    since = "whenever a process starts" if model.at is None else moment(model.at)
    version = model.version or "told by workers that serve it (`foryou doctor`)"
    facts: dict[str, int | str] = {"version": version, "from": model.location, "since": since}
    return counts_table(f"the current model, {model.source}", facts)


def _of(pointer: ModelPointer) -> CurrentModel:
    return CurrentModel("announced", pointer.version, pointer.location, pointer.at)
