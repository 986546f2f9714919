"""The table of the current model."""

from rich.table import Table

from infra.ops.model_command import CurrentModel
from infra.terminal.tables import counts_table, moment


def model_table(model: CurrentModel) -> Table:
    """The current model, its source and its time."""
    facts: dict[str, int | str] = {
        "version": model.version or "computed by each worker (`foryou doctor`)",
        "location": model.location,
        "since": "start of each process" if model.at is None else moment(model.at),
    }
    return counts_table(f"current model ({model.source})", facts)
