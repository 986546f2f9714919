"""`foryou evaluate`: checkpoints judged on a span of a log, beside baselines that are recomputed from the same log."""

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
"""With fewer positives than this an AUC's interval is wider than what scorers differ by."""
_METRICS = {"auc": 4, "gauc": 4, "log_loss": 4, "rce": 2, "ece": 4, "calibration": 3}
"""What a table shows, and to how many digits."""


def evaluate(
    checkpoint: Annotated[
        list[Path],
        typer.Option(help="trained models; repeatable for models that differ by their seed: their mean is judged"),
    ],
    since: Since,
    until: Until,
    log: LogDirectory = None,
    labelled: LabelledSince = None,
    action: Annotated[
        list[str] | None,
        typer.Option(help=f"judge this one; repeatable; default: all that occur {LEAST} times in both spans"),
    ] = None,
    retrieved_for: Annotated[str, typer.Option(help="the action that makes a post worth finding")] = "click",
    baselines: Annotated[bool, typer.Option(help="judge baselines too: a minute or two")] = True,
    seed: Annotated[int, typer.Option(help="of the draws of viewers", min=0)] = 0,
    replicates: Annotated[int, typer.Option(help="draws of viewers for the intervals", min=1)] = 1_000,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Judge trained models on the impressions of a span that they have not been trained on.

    Nothing from --since on is used to predict, by no model and no baseline: histories and counters end there. Intervals
    are of 95 %, by drawing viewers anew; a difference of the models and a baseline is on the same draws, and is one
    where its interval does not contain 0. GAUC is the AUC within each viewer, weighted by impressions; RCE is the share
    of log-loss saved over the rate of the span of training, so it suffers, as calibration does, where rates drift.
    Recall counts posts that are new to the viewer; a log holds only what its own ranking showed, so imitating that is
    rewarded.
    """
    from infra.terminal.progress import Report as Progress
    from infra.terminal.tables import console

    try:
        from phoenix.evaluation.report import Judge
        from phoenix.evaluation.split import Split
    except ModuleNotFoundError as error:
        sys.stderr.write(f"foryou: {error}; baselines need more packages: pip install 'foryou[evaluation]'\n")
        raise typer.Exit(1) from None
    if since >= until:
        raise typer.BadParameter("--since must come before --until")
    wanted = [_action(each) for each in action or []]
    models, cards = zip(*map(_model, checkpoint), strict=True)
    trained_since = _trained_since(cards, since)
    with Progress(console(stderr=True)) as progress:
        columns = read_log(log, progress)
        known = labelled_since(labelled) or cards[0].data["labelled_since"]
        # rates and counters are learned where every action was recorded: a rate of half of them would mislead
        complete_since = max([trained_since, *(at for at in known.values() if at < since)])
        try:
            split = Split(columns, complete_since, since, until, known)
            judge = Judge(
                split,
                _judged(split, wanted),
                retrieved_for=_action(retrieved_for),
                seed=seed,
                replicates=replicates,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        with progress.step("judging"):
            report = judge.report(models, progress.say, baselines=baselines)
    if as_json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    else:
        for table in tables(report):
            console().print(table)


def _action(name: str) -> ActionName:
    if name not in ACTION_INDEX:
        raise typer.BadParameter(f"no action {name!r}; there are {', '.join(ACTION_INDEX)}")
    return name


def _model(path: Path) -> "tuple[Phoenix, Card]":
    """The models of a checkpoint, ready to be asked as judging asks."""
    from phoenix.evaluation.predictions import judging
    from phoenix.serving.engine import Phoenix
    from phoenix.training.checkpoints import CheckpointError, newest, restore

    found = newest(path)
    if found is None:
        raise CheckpointError(f"{path} holds no checkpoint")
    state, card = restore(found)
    return Phoenix(judging(card.model), state.served, f"seed{card.training.seed}-step{card.step}"), card


def _trained_since(cards: "tuple[Card, ...]", since: int) -> int:
    """Where the span that the models were trained on begins; refuses models that have seen what is to be judged."""
    spans = {(int(card.data["since_ms"]), int(card.data["until_ms"])) for card in cards}
    if len(spans) > 1:
        raise typer.BadParameter("the checkpoints were trained on different spans; judge them one by one")
    ((trained_since, trained_until),) = spans
    if trained_until > since:
        raise typer.BadParameter(
            f"the checkpoint was trained on impressions up to {trained_until}; what is judged must not begin before"
        )
    return trained_since


def _judged(split: "Split", wanted: list[ActionName]) -> list[ActionName]:
    possible = split.judgeable(1 if wanted else LEAST)
    if not possible or not {*wanted} <= {*possible}:
        raise typer.BadParameter(
            f"what can be judged here: {', '.join(possible) or 'nothing'}; an action must occur, and fail to occur, in "
            "both spans, and be recorded"
        )
    return wanted or possible


def tables(report: "Report") -> "list[Table]":
    """The report for readers: a table for each action, one for retrieval."""
    from rich.table import Table

    protocol: Mapping[str, Any] = report.protocol
    found: list[Table] = []
    for action, measured in report.actions.items():
        positives, rate = protocol["positives"][action], protocol["rate"][action]
        title = (
            f"{action}: {protocol['impressions']:,} impressions, {positives:,} with it ({rate:.1%}; "
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
    """A row for the models and each baseline; under each figure its interval, and by how much the models are ahead."""
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        caption="± 95 %; Δ: models minus this one, * where its interval leaves out 0",
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
