"""`foryou evaluate`: metrics of checkpoints on a span of a log, beside baselines that learn from the same log."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from infra.cli.learning_options import LabelledSince, LogDirectory, Since, Until, labelled_since, read_log
from thunder_ingest.events import ACTION_INDEX, ActionName

if TYPE_CHECKING:
    from rich.table import Table

    from phoenix.evaluation.report import Measured, Report
    from phoenix.evaluation.split import Split
    from phoenix.serving.engine import Phoenix
    from phoenix.training.checkpoints import Card

LEAST = 100
"""Minimum of positives. With fewer, the interval of an AUC is wider than the differences between scorers."""
_METRICS = {"auc": 4, "gauc": 4, "log_loss": 4, "rce": 2, "ece": 4, "calibration": 3}
"""The metrics of a table with their digits."""


def evaluate(
    checkpoint: Annotated[
        list[Path],
        typer.Option(help="Evaluate this checkpoint; repeat for the mean of several seeds."),
    ],
    since: Since,
    until: Until,
    log: LogDirectory = None,
    labelled: LabelledSince = None,
    action: Annotated[
        list[str] | None,
        typer.Option(help=f"Evaluate this action; repeatable (default: all with {LEAST} positives)."),
    ] = None,
    retrieved_for: Annotated[
        str, typer.Option(help="Count posts with this action as positive for retrieval.")
    ] = "click",
    baselines: Annotated[bool, typer.Option(help="Evaluate baselines, too; takes 1 to 2 minutes.")] = True,
    seed: Annotated[int, typer.Option(help="Seed the bootstrap over viewers.", min=0)] = 0,
    replicates: Annotated[
        int, typer.Option(help="Draw this many bootstrap replicates for the intervals.", min=1)
    ] = 1_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate trained models on the impressions of a span after their training.

    Histories and counters end at --since, for the models and for all baselines. Intervals are 95 % bootstrap intervals
    over viewers. The difference between the models and a baseline is a paired bootstrap on the same replicates; it is
    significant if its interval excludes 0.

    GAUC is the AUC within each viewer, weighted by impressions. RCE is the share of log-loss saved over a constant
    prediction of the training span's rate; so it falls, like calibration, if rates drift. Recall counts posts that are
    new to the viewer. A log holds only posts that its own ranking showed, so recall rewards imitating that ranking.
    """
    from infra.terminal.progress import ProgressReport
    from infra.terminal.tables import console
    from phoenix.evaluation.report import Evaluation
    from phoenix.evaluation.split import Split

    if since >= until:
        raise typer.BadParameter("--since must come before --until")
    wanted = [_action(each) for each in action or []]
    models, cards = zip(*map(_model, checkpoint), strict=True)
    trained_since = _trained_since(cards, since)
    with ProgressReport(console(stderr=True)) as progress:
        columns = read_log(log, progress)
        known = labelled_since(labelled) or cards[0].data["labelled_since"]
        # baselines learn rates and counters only where the log records every action, else they learn too low rates
        complete_since = max([trained_since, *(at for at in known.values() if at < since)])
        try:
            split = Split(columns, complete_since, since, until, known)
            evaluation = Evaluation(
                split,
                _evaluated(split, wanted),
                retrieved_for=_action(retrieved_for),
                seed=seed,
                replicates=replicates,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        with progress.step("evaluating"):
            report = evaluation.report(models, progress.print_line, baselines=baselines)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    else:
        for table in tables(report):
            console().print(table)


def _action(name: str) -> ActionName:
    if name not in ACTION_INDEX:
        raise typer.BadParameter(f"no action {name!r}; valid: {', '.join(ACTION_INDEX)}")
    return name


def _model(path: Path) -> "tuple[Phoenix, Card]":
    """The models and the card of a checkpoint, with the buckets of the evaluation."""
    from phoenix.evaluation.predictions import evaluation_config
    from phoenix.serving.engine import Phoenix
    from phoenix.training.checkpoints import CheckpointError, newest_read, restore

    found = newest_read(path, restore)
    if found is None:
        raise CheckpointError(f"{path} contains no checkpoint")
    _, (state, card) = found
    return Phoenix(evaluation_config(card.model), state.served, f"seed{card.training.seed}-step{card.step}"), card


def _trained_since(cards: "tuple[Card, ...]", since: int) -> int:
    """The start of the training span; refuses checkpoints of different spans, or with impressions after `since`."""
    spans = {(int(card.data["since_ms"]), int(card.data["until_ms"])) for card in cards}
    if len(spans) > 1:
        raise typer.BadParameter("the checkpoints were trained on different spans; evaluate them one by one")
    ((trained_since, trained_until),) = spans
    if trained_until > since:
        raise typer.BadParameter(
            f"the checkpoint was trained on impressions up to {trained_until}; --since must not be earlier"
        )
    return trained_since


def _evaluated(split: "Split", wanted: list[ActionName]) -> list[ActionName]:
    possible = split.frequent_actions(1 if wanted else LEAST)
    if not possible or not {*wanted} <= {*possible}:
        raise typer.BadParameter(
            f"actions to evaluate in this log: {', '.join(possible) or 'none'}; an action needs to be recorded, and to "
            "have positives and negatives in both spans"
        )
    return wanted or possible


def tables(report: "Report") -> "list[Table]":
    """The report as tables: one for each action, and one for retrieval."""
    from rich.table import Table

    protocol: Mapping[str, Any] = report.protocol
    found: list[Table] = []
    for action, measured in report.actions.items():
        positives, rate = protocol["positives"][action], protocol["rate"][action]
        title = (
            f"{action}: {protocol['impressions']:,} impressions, {positives:,} positive ({rate:.1%}; "
            f"{protocol['trained_rate'][action]:.1%} in training), {protocol['viewers']:,} viewers"
        )
        others = {name: scorer.actions[action] for name, scorer in report.baselines.items() if action in scorer.actions}
        ahead = {name: report.differences[name].actions[action] for name in others}
        found.append(_table(title, measured, others, ahead))
    title = (
        f"retrieval: {protocol['retrieval_wanted']:,} new posts with {protocol['retrieved_for']}, "
        f"{protocol['retrieval_viewers']:,} viewers"
    )
    others = {name: scorer.retrieval for name, scorer in report.baselines.items() if scorer.retrieval}
    ahead = {name: report.differences[name].retrieval for name in others}
    return [*found, _table(title, report.retrieval, others, ahead)]


def _table(title: str, ours: "Measured", others: "Mapping[str, Measured]", ahead: "Mapping[str, Measured]") -> "Table":
    """A row for the models and for each baseline, with intervals, and the models' lead over each baseline."""
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        caption="± 95 %; Δ: models minus this baseline, * if its interval excludes 0",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for metric in ours["interval"]:
        table.add_column(metric, justify="right", no_wrap=True)
    table.add_row("models", *(_figure(ours, metric) for metric in ours["interval"]), style="bold")
    for name, measured in others.items():
        figures = (_figure(measured, metric) for metric in ours["interval"])
        table.add_row(name, *figures)
        table.add_row("  Δ", *(_difference(ahead[name], metric) for metric in ours["interval"]), style="dim")
    return table


def _figure(measured: "Measured", metric: str) -> str:
    digits = _METRICS.get(metric, 3)
    low, high = measured["interval"][metric]
    return f"{measured[metric]:.{digits}f} ± {(high - low) / 2:.{digits}f}"


def _difference(measured: "Measured", metric: str) -> str:
    digits = _METRICS.get(metric, 3)
    low, high = measured["interval"][metric]
    sure = "  " if low <= 0 <= high else " *"
    return f"{measured[metric]:+.{digits}f} ± {(high - low) / 2:.{digits}f}{sure}"
