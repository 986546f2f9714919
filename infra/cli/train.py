"""`foryou train`: train both models on a log. The loop itself is in `phoenix.training.loop`."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.learning_options import LabelledSince, LogDirectory, Since, Until, labelled_since, read_log

if TYPE_CHECKING:
    from infra.terminal.progress import ProgressReport
    from phoenix.data.batches import Batches
    from phoenix.data.impressions import Log
    from phoenix.training.loop import Checkpointing, Progress
    from phoenix.training.step import Trainer
    from thunder_ingest.events import ActionName


def train(
    since: Since,
    until: Until,
    out: Annotated[Path, typer.Option(help="Save checkpoints in this directory; continue an interrupted run there.")],
    log: LogDirectory = None,
    labelled: LabelledSince = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Read fields of the models and of the training from this TOML file; options take precedence."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Train this configuration, or the file's fields on it: nano (default), small, base or large."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Pass over the examples this many times.", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="Take this many slates per step.", min=1)] = None,
    earlier: Annotated[
        bool,
        typer.Option("--earlier/--no-earlier", help="First train once on the impressions before the span."),
    ] = True,
    shown_weight: Annotated[
        float | None,
        typer.Option(help="Weigh passed-over posts by this in retrieval; engaged ones by 1.", min=0),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed the initial parameters and all random draws.", min=0)] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Save a checkpoint after this many steps.", min=1)] = 500,
    keep: Annotated[int, typer.Option(help="Keep this many newest checkpoints.", min=1)] = 2,
    announce: Annotated[
        bool, typer.Option("--announce", help="Announce the last checkpoint, like `foryou models use`.")
    ] = False,
) -> None:
    """Train the ranker and the retrieval model on the impressions of a span.

    All earlier impressions serve as history. Without --labelled-since, the command derives from the log the time from
    which it records each action. With --shown-weight 1, retrieval imitates the ranking that showed the posts of the
    log; with a lower weight, it follows the viewers' actions.
    """
    from infra.ops.model_command import current, use
    from infra.ports.settings import load
    from infra.terminal.progress import ProgressReport
    from infra.terminal.tables import console
    from phoenix.data.batches import Batches, Span
    from phoenix.training.checkpoints import Card
    from phoenix.training.loop import Checkpointing
    from phoenix.training.run_config import read_run_config
    from phoenix.training.step import Trainer

    try:
        given = read_run_config(config, model)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    sizes, training, _ = given.choosing(seed=seed, epochs=epochs, batch=batch, shown_weight=shown_weight)
    if since >= until:
        raise typer.BadParameter("--since must come before --until")
    if announce:
        current(load())  # report an unreachable Kafka now, not after hours of training
    with ProgressReport(console(stderr=True)) as report:
        columns = read_log(log, report)
        span = Span(since, until, labelled_since(labelled) or _recorded_since(columns, report), earlier)
        try:
            batches = Batches(columns, span, sizes, training)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        card = Card(
            step=0,
            steps=batches.steps,
            model=sizes,
            training=training,
            data=batches.description,
            commit=_commit(),
        )
        trainer = Trainer(sizes, training, batches.steps)
        _fit(trainer, batches, Checkpointing(out, card, checkpoint_every, keep), report)
        if announce:
            report.print_line(f"{use(load(), out).version} is announced")


def _recorded_since(log: "Log", report: "ProgressReport") -> "dict[ActionName, int]":
    """Derive the recording times of the actions from the log, and print them."""
    from phoenix.data.labels import recorded_since

    found = recorded_since(log)
    for at in sorted(set(found.values())):
        actions = ", ".join(action for action in found if found[action] == at)
        moment = datetime.fromtimestamp(at // 1_000, UTC).isoformat()
        report.print_line(f"recorded from {moment} on: {actions} (--labelled-since overrides this)")
    return found


def _fit(trainer: "Trainer", batches: "Batches", checkpointing: "Checkpointing", report: "ProgressReport") -> None:
    """Run the training loop and print its progress."""
    from phoenix.training.loop import fit, start
    from phoenix.training.run_lock import locked

    with locked(checkpointing.directory):
        state, found = start(trainer, checkpointing)
        if found is not None:
            report.print_line(f"continuing from {found}")
        first, name = int(state.step), checkpointing.card.model.name
        with report.step(f"training {name}, steps {first:,} to {batches.steps:,}") as advance:

            def show(progress: "Progress") -> None:
                advance(progress.step - first, batches.steps - first)
                if progress.checkpoint:
                    figures = ", ".join(f"{figure} {value:.4g}" for figure, value in progress.figures.items())
                    report.print_line(f"{progress.checkpoint}: {figures}")

            fit(trainer, batches, state, show, checkpointing)


def _commit() -> str:
    """The Git commit of this program, or "unknown"."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
