"""`foryou train`: train both models on a log. The training itself is `phoenix.training.fit`."""

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.learning_options import LabelledSince, LogDirectory, Since, Until, labelled_since, read_log
from infra.ports.errors import ForYouError

if TYPE_CHECKING:
    from infra.terminal.progress import Advance, ProgressReport
    from phoenix.data.batches import Span
    from phoenix.data.impressions import Log
    from phoenix.models.configs import TrainingConfig
    from phoenix.training import Begun, Checkpoints, Fitted, Progress
    from phoenix.training.run_config import RunConfig
    from thunder_ingest.events import ActionName

FEW_EXAMPLES = 10_000
"""With so many examples, models rank the generated world clearly better than untrained ones do."""


class NotBetter(ForYouError, RuntimeError):
    """The trained models do not beat the untrained ones, which serve without them."""


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
    held_out: Annotated[
        float | None,
        typer.Option(
            help="Leave this share of the span's impressions out, the newest, to evaluate on them (default: 0.1).",
            min=0,
            max=1,
        ),
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option(help="Evaluate and save a checkpoint after this many steps.", min=1)
    ] = 500,
    keep: Annotated[int, typer.Option(help="Keep this many newest checkpoints.", min=1)] = 2,
    announce: Annotated[
        bool,
        typer.Option(
            "--announce",
            help="Announce the last checkpoint, like `foryou models use`, if it beats the untrained models.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Announce it even if it does not.")] = False,
) -> None:
    """Train the ranker and the retrieval model on the impressions of a span.

    All earlier impressions serve as history. Without --labelled-since, the command derives from the log the time from
    which it records each action. Without --epochs and --batch, they follow from the number of examples. With
    --shown-weight 1, retrieval imitates the ranking that showed the posts of the log; with a lower weight, it follows
    the viewers' actions. The newest examples are held out: each report has figures of the models and of untrained ones.
    """
    from infra.ops.model_command import current, use
    from infra.ports.settings import load
    from infra.terminal.progress import ProgressReport
    from infra.terminal.tables import console
    from phoenix.data.batches import Span
    from phoenix.training import Checkpoints
    from phoenix.training.run_config import read_run_config

    if since >= until:
        raise typer.BadParameter("--since must come before --until")
    try:
        run = read_run_config(config, model).choosing(
            seed=seed, epochs=epochs, batch=batch, shown_weight=shown_weight, held_out=held_out
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if announce:
        current(load())  # report an unreachable Kafka now, not after hours of training
    with ProgressReport(console(stderr=True)) as report:
        columns = read_log(log, report)
        span = Span(since, until, labelled_since(labelled) or _recorded_since(columns, report), earlier)
        fitted = _fitted(run, columns, span, Checkpoints(out, keep, _commit()), checkpoint_every, report)
        if announce:
            if not (force or fitted.is_better):
                raise NotBetter(f"{fitted.checkpoint} is not announced: {_verdict(fitted)}; --force announces it")
            report.print_line(f"{use(load(), fitted.checkpoint or out).version} is announced")


def _fitted(
    run: "RunConfig",
    log: "Log",
    span: "Span",
    checkpoints: "Checkpoints",
    every: int,
    report: "ProgressReport",
) -> "Fitted":
    """Train, and print the progress."""
    from phoenix.data.slates import rows_between
    from phoenix.training import fit

    training = run.suited(len(rows_between(log, 0 if span.earlier else span.since_ms, span.until_ms)))
    with report.step(f"training {run.model.name}") as advance:
        shown = _Shown(training, report, advance)
        fitted = fit(
            log,
            span,
            run.model,
            training,
            checkpoints=checkpoints,
            every=every,
            begun=shown.begun,
            report=shown.progress,
        )
    report.print_line(_verdict(fitted))
    return fitted


class _Shown:
    """The progress of a run in lines."""

    def __init__(self, training: "TrainingConfig", report: "ProgressReport", advance: "Advance") -> None:
        self._training, self._print, self._advance = training, report.print_line, advance
        self._first = self._steps = 0

    def begun(self, run: "Begun") -> None:
        self._first, self._steps = run.step, run.steps
        self._print(
            f"{run.examples:,} examples, {run.held_out:,} held out; {run.steps:,} steps (batch {self._training.batch}, "
            f"epochs {self._training.epochs})"
        )
        if run.examples < FEW_EXAMPLES:
            self._print(f"expect little: models learn tastes from about {FEW_EXAMPLES:,} examples on")
        if run.checkpoint:
            self._print(f"continuing from {run.checkpoint}")

    def progress(self, progress: "Progress") -> None:
        self._advance(progress.step - self._first, self._steps - self._first)
        if progress.checkpoint:
            self._print(f"{progress.checkpoint}: {_readable(progress.figures)}")


def _readable(figures: Mapping[str, float]) -> str:
    """Figures as one line; the held-out ones beside those of the untrained models."""
    from phoenix.training.fitting import UNTRAINED

    return ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}"
        + (f" (untrained {figures[UNTRAINED + name]:.4g})" if UNTRAINED + name in figures else "")
        for name, value in figures.items()
        if not name.startswith(UNTRAINED)
    )


def _verdict(fitted: "Fitted") -> str:
    """Whether the models are worth serving, with the figures."""
    if fitted.is_better is None:
        return "too few actions are held out to compare the models with untrained ones"
    held_out = {name: value for name, value in fitted.figures.items() if "held_out" in name}
    return f"the models are {'' if fitted.is_better else 'not '}better than untrained ones: {_readable(held_out)}"


def _recorded_since(log: "Log", report: "ProgressReport") -> "dict[ActionName, int]":
    """Derive the recording times of the actions from the log, and print them."""
    from phoenix.data.labels import recorded_since

    found = recorded_since(log)
    for at in sorted(set(found.values())):
        actions = ", ".join(action for action in found if found[action] == at)
        moment = datetime.fromtimestamp(at // 1_000, UTC).isoformat()
        report.print_line(f"recorded from {moment} on: {actions} (--labelled-since overrides this)")
    return found


def _commit() -> str:
    """The Git commit of this program, or "unknown"."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
