"""The list of the commands of `foryou`, by group. Each module beside this one holds the commands of one group.

Commands import what they need when they run, so that help and shell completion stay fast.
"""

from collections.abc import Callable
from typing import Annotated

import typer

from infra.cli import dead_letters, feeds, models, settings, state, system
from infra.cli.evaluate import evaluate
from infra.cli.train import train

RUN, PUBLISH_AND_READ, LOOK_INSIDE, OPERATE, MODELS = "Run", "Publish and read", "Look inside", "Operate", "Models"

app = typer.Typer(name="foryou", no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"foryou {version('foryou')}")
        raise typer.Exit


@app.callback()
def foryou(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A For You feed as a streaming dataflow: publish events to Kafka, read ranked feeds from Redis.

    Exit codes: 0 done; 1 a server, the data or a check failed; 2 wrong command, input or setting; 130 Ctrl-C.
    """


_COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    RUN: (system.up, system.demo),
    PUBLISH_AND_READ: (feeds.publish, feeds.feed, feeds.replay, feeds.schemas),
    LOOK_INSIDE: (feeds.explain,),
    OPERATE: (system.doctor, system.topics, settings.settings, dead_letters.dead_letters),
    MODELS: (train, evaluate),
}
for panel, commands in _COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(state.state_app, name="state", rich_help_panel=LOOK_INSIDE)
app.add_typer(state.rebuild_app, name="rebuild", rich_help_panel=OPERATE)
app.add_typer(models.models_app, name="models", rich_help_panel=MODELS)
