"""`foryou models`: show the current model, or change it. Training and evaluation are in `train` and `evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.options import AsJson, print_result

models_app = typer.Typer(help="Show the current model, or change it.", invoke_without_command=True)


@models_app.callback()
def models(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the current model, or announce another one."""
    from infra.ops import model_command as command
    from infra.ports.settings import load
    from infra.terminal.models import model_table

    if context.invoked_subcommand is None:
        model = command.current(load())
        print_result(model, model_table(model), as_json=as_json)


@models_app.command("use")
def models_use(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint, or a directory of them (its newest).")],
    as_json: AsJson = False,
) -> None:
    """Announce a checkpoint; flows and workers switch without a pause."""
    from infra.ops import model_command as command
    from infra.ports.settings import load
    from infra.terminal.models import model_table

    model = command.use(load(), checkpoint)
    print_result(model, model_table(model), as_json=as_json)
