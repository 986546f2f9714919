"""Views of an explanation, for a terminal of 80 columns or more."""

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from feed_worker.documents.explanation import ExplainedItem, Explanation, FunnelStep
from infra.ops.explain import DROPPED_BY, NEVER_A_CANDIDATE, ExplainedFeed, PostOutcome, dropped_counts
from infra.terminal.tables import moment, plain, stripped

BAR = 30
LARGEST = 3


def view(explained: ExplainedFeed, items: int | None = None) -> Group:
    """The whole explanation; `items` limits the number of items."""
    explanation = explained.explanation
    return Group(
        header(explained),
        Text(),
        funnel(explanation),
        Text(),
        summary(explanation.items[:items]),
        Text(),
        arithmetic(explanation.items[:items]),
        Text(),
        dropped(explanation),
    )


def header(explained: ExplainedFeed) -> RenderableType:
    """The request, the model, the parameters and the time of the explained feed."""
    explanation, feed = explained
    experiments = ", ".join(f"{name}={variant}" for name, variant in explanation.experiments.items())
    model = explanation.model_version or (feed.model_version if feed and explained.is_of_the_feed else "")
    facts = {
        "request": f"{explanation.request_id}, {moment(explanation.at)}",
        "model": model or "unknown",
        "parameters": explanation.parameters,
        "experiments": experiments or "none",
        "degraded": "; ".join(explanation.degradations) or "no",
        "time": _took(explained),
    }
    if any(explanation.left_out.values()):
        left_out = " and ".join(f"{count:,} {name}" for name, count in explanation.left_out.items() if count)
        facts["left out"] = f"{left_out} posts, which the sources of new posts skip"
    if not explained.is_of_the_feed and explanation.items:
        facts["note"] = "the current feed is a later one without explanation; use --ask for a new one"
    elif not explained.is_of_the_feed and feed:
        facts["note"] = "an answer without posts, so another feed stays the current one"
    lines = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        lines.add_row(name, plain(fact))
    title = f"user {explanation.user_id}: {explanation.status}, {len(explanation.items)} items"
    return Group(Text(title, style="bold"), lines)


def _took(explained: ExplainedFeed) -> str:
    explanation, feed = explained
    stages = sum(explanation.stages_ms.values()) or sum(explanation.timings_ms.values())
    whole = f", {feed.generated_at - feed.at} ms from request to feed" if feed and explained.is_of_the_feed else ""
    return f"{stages:.1f} ms in the stages{whole}"


def funnel(explanation: Explanation) -> RenderableType:
    """The number of candidates before and after each component, in pipeline order, and the times."""
    stages = ", ".join(f"{stage} {took:.1f}" for stage, took in explanation.stages_ms.items())
    return Group(_steps(explanation), Text(f"ms by stage: {stages}", style="dim") if stages else Text())


def _steps(explanation: Explanation) -> Table:
    table = _table("stage", "component", right=("in", "out"))
    table.add_column("candidates after it", no_wrap=True, min_width=BAR)
    table.add_column("ms", justify="right")
    widest = max((max(step.entered, step.left) for step in explanation.funnel), default=0)
    stage = ""
    for name, step in _rows(explanation):
        took = explanation.timings_ms.get(name)
        ms = "" if took is None else f"{took:.1f}"
        if step is None:
            table.add_row("", name, "", "", "", ms, style="dim")
            continue
        shown_stage, stage = ("" if step.stage == stage else step.stage), step.stage
        table.add_row(shown_stage, name, f"{step.entered:,}", f"{step.left:,}", _bar(step.left, widest), ms)
    return table


def _rows(explanation: Explanation) -> Iterator[tuple[str, FunnelStep | None]]:
    """Components in the order of their start; those of the funnel with their step."""
    steps = {step.name: step for step in explanation.funnel}
    for name in explanation.timings_ms:
        yield name, steps.pop(name, None)
    yield from steps.items()  # steps without a time, such as the size


def _bar(count: int, widest: int) -> str:
    return "█" * max(round(BAR * count / widest), 1) if count else ""


def summary(items: Iterable[ExplainedItem]) -> Table:
    """The items, one a row."""
    table = _table(right=("#",))
    for column, ratio in (("post", 3), ("author", 3)):
        table.add_column(column, no_wrap=True, overflow="ellipsis", ratio=ratio)
    for column in ("kind", "source", "network"):
        table.add_column(column, no_wrap=True)
    table.add_column("score", justify="right")
    for item in items:
        network = "in" if item.in_network else "out"
        source = f"{item.source} ({item.repeat})" if item.repeat else item.source
        cells = (item.post_id, item.author_id, item.kind, source, network, f"{item.score:.4f}")
        table.add_row(str(item.rank), *map(plain, cells))
    return table


def arithmetic(items: Iterable[ExplainedItem]) -> Group:
    """The arithmetic of each score, and its largest terms."""
    lines: list[RenderableType] = [Text("score = (terms + offset + boost) × multipliers; those of 1 are left out")]
    for item in items:
        lines.append(Text(f"{item.rank:>3}  {sum_of(item)}", no_wrap=True, overflow="ellipsis"))
        lines.append(Text(f"       {_largest(item)}", style="dim", no_wrap=True, overflow="ellipsis"))
    return Group(*lines)


def sum_of(item: ExplainedItem) -> str:
    """The arithmetic of a score in one line."""
    if not item.scored:
        return "not scored: the ranker gave no predictions"
    terms = [(item.combined, "terms"), (item.offset, "offset"), (item.boost, "new-author boost")]
    added = " + ".join(f"{value:.5f} {name}" for value, name in terms if value or name == "terms")
    factors = [
        (item.author_diversity, "author diversity"),
        (item.out_of_network, "out of network"),
        (item.dpp, "re-ranking"),
    ]
    multiplied = "".join(f" × {value:.4g} {name}" for value, name in factors if value != 1)
    return f"({added}){multiplied} = {item.score:.5f}" if multiplied else f"{added} = {item.score:.5f}"


def _largest(item: ExplainedItem) -> str:
    largest = sorted(item.terms.items(), key=lambda term: -abs(term[1]))[:LARGEST]
    return ", ".join(f"{action} {value:+.4f}" for action, value in largest)


def dropped(explanation: Explanation) -> RenderableType:
    """The number of candidates that each component dropped, and the reason."""
    counts = dropped_counts(explanation)
    if not counts:
        return Text("no component dropped a candidate")
    table = _table("dropped by", right=("posts",))
    table.add_column("reason")
    for name, count in counts:
        table.add_row(name, f"{count:,}", DROPPED_BY.get(name, ""))
    return table


def item_view(item: ExplainedItem) -> Group:
    """One item: its predictions, and the term of each in the score."""
    table = _table("action", right=("predicted", "term"))
    for action, predicted in item.predictions.items():
        value = f"{predicted / 1000:.2f} s" if action == "dwell_time" else f"{predicted:.4%}"
        table.add_row(action, value, f"{item.terms[action]:+.6f}")
    table.add_row("sum", "", f"{item.combined:+.6f}", style="bold")
    where = "in network" if item.in_network else "out of network"
    near = "" if item.retrieval_score is None else f", similarity to the viewer {item.retrieval_score:.3f}"
    repeat = f", {item.repeat} before" if item.repeat else ""
    facts = f"{item.kind} by {item.author_id}, {moment(item.created_at)}; from {item.source}{near}, {where}{repeat}"
    title = Text(f"post {stripped(item.post_id)}: shown at rank {item.rank}", style="bold")
    return Group(title, Text(stripped(facts)), Text(sum_of(item)), table if item.scored else Text())


def outcome_view(outcome: PostOutcome) -> RenderableType:
    """The outcome of one post."""
    parts = [] if outcome.item is None else [item_view(outcome.item)]
    title = f"post {stripped(outcome.post_id)}: "
    parts += [
        Group(
            Text(f"{title}dropped by {each.filter}{_placed(each.rank, each.score)}", style="bold"),
            Text(DROPPED_BY.get(each.filter, "")),
        )
        for each in outcome.dropped
    ]
    return Group(*parts) if parts else Group(Text(f"{title}never a candidate", style="bold"), Text(NEVER_A_CANDIDATE))


def _placed(rank: int | None, score: float | None) -> str:
    return "" if rank is None or score is None else f", at rank {rank} by score, {score:.4f}"


def _table(*left: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    for column in left:
        table.add_column(column, no_wrap=True)
    for column in right:
        table.add_column(column, justify="right", no_wrap=True)
    return table
