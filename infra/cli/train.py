"""`foryou train`: both models from a log, with checkpoints from which it goes on where it was cut off."""

import math
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.learning_options import LabelledSince, LogDirectory, Since, Until, labelled_since, read_log
from infra.ports.errors import ForYouError

if TYPE_CHECKING:
    from infra.terminal.progress import Report
    from phoenix.data.batches import Batches
    from phoenix.data.impressions import Log
    from phoenix.training.model_card import Card
    from phoenix.training.step import Trainer
    from thunder_ingest.events import ActionName

_TOLD_STEPS = 20
"""Losses are told, and waited for, once in so many steps: in between, the device need not wait for us."""


class Diverged(ForYouError, RuntimeError):
    """Training has left the numbers; the text says where."""


def train(
    since: Since,
    until: Until,
    out: Annotated[Path, typer.Option(help="directory of the checkpoints; a run that was cut off there goes on")],
    log: LogDirectory = None,
    labelled: LabelledSince = None,
    model: Annotated[str, typer.Option(help="configuration of the models")] = "nano",
    epochs: Annotated[int, typer.Option(help="how often each example is met", min=1)] = 1,
    batch: Annotated[int, typer.Option(help="slates of a step", min=1)] = 128,
    earlier: Annotated[
        bool,
        typer.Option(
            "--earlier/--no-earlier", help="first learn, once, from what came before the span; else it is history only"
        ),
    ] = True,
    shown_weight: Annotated[
        float,
        typer.Option(
            help="what a post that was passed over is worth finding, where 1 is one acted on: with 1, retrieval trusts"
            " what chose the posts of this log; with less, it goes by what viewers did",
            min=0,
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="of the first parameters and of all chance", min=0)] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="steps between checkpoints", min=1)] = 500,
    keep: Annotated[int, typer.Option(help="checkpoints that are kept, the newest", min=1)] = 2,
    announce: Annotated[
        bool, typer.Option("--announce", help="then have flows and workers go over to it, like `foryou models use`")
    ] = False,
) -> None:
    """Train the ranker and the retrieval model on the impressions of a span, with all earlier ones as history.

    Since when the log records each action is found out from it, unless --labelled-since says so.
    """
    from infra.ops.model_command import current, use
    from infra.ports.settings import load
    from infra.terminal.progress import Report
    from infra.terminal.tables import console
    from phoenix.data.batches import Batches, Span
    from phoenix.models.configs import TrainingConfig, config_named
    from phoenix.training.model_card import Card
    from phoenix.training.step import Trainer

    training = TrainingConfig(seed=seed, epochs=epochs, batch=batch, shown_weight=shown_weight)
    try:
        sizes = config_named(model)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if since >= until:
        raise typer.BadParameter("--since must come before --until")
    if announce:
        current(load())  # what is in the way of it is told now, not after hours
    with Report(console(stderr=True)) as report:
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
        _run(Trainer(sizes, training, batches.steps), batches, card, out, checkpoint_every, keep, report)
        if announce:
            report.say(f"{use(load(), out).version} is announced")


def _recorded_since(log: "Log", report: "Report") -> "dict[ActionName, int]":
    """What the log tells of itself, told to the user."""
    from phoenix.data.labels import recorded_since

    found = recorded_since(log)
    for at in sorted(set(found.values())):
        actions = ", ".join(action for action in found if found[action] == at)
        moment = datetime.fromtimestamp(at // 1_000, UTC).isoformat()
        report.say(f"taken as recorded from {moment} on: {actions} (--labelled-since says otherwise)")
    return found


def _run(
    trainer: "Trainer", batches: "Batches", card: "Card", out: Path, every: int, keep: int, report: "Report"
) -> None:
    """From the newest checkpoint, or the beginning, to the last step."""
    import msgspec

    from phoenix.training import checkpoints

    found = checkpoints.newest(out)
    begun = trainer.initial() if found is None else checkpoints.resume(found, card)
    first = int(begun.step)
    if found is not None:
        report.say(f"going on from {found}")
    with report.step(f"training {card.model.name}, steps {first:,} to {card.steps:,}") as advance:
        for step, (state, losses) in enumerate(trainer.run(begun, batches), first + 1):
            saves = step % every == 0 or step == card.steps
            if saves or step % _TOLD_STEPS == 0:
                figures = {f"loss_{name}": float(loss) for name, loss in losses._asdict().items()}
                advance(step - first, card.steps - first)
                if not all(map(math.isfinite, figures.values())):
                    raise Diverged(f"the losses of step {step:,} are no numbers; the newest checkpoint is from before")
            if saves:
                path = checkpoints.save(out, state, msgspec.structs.replace(card, step=step, figures=figures))
                checkpoints.forget_all_but(out, keep)
                report.say(f"{path}: {', '.join(f'{name} {figure:.4f}' for name, figure in figures.items())}")


def _commit() -> str:
    """Which version of the program this is, as far as that can be told."""
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return asked.stdout.strip()
