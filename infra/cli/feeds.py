"""`foryou publish`, `feed`, `explain`, `replay` and `schemas`: events into the system, feeds out of it."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.options import AsJson, MaxPostAge, User, given, print_json, print_result, published_id


def speed_factor(text: str) -> float:
    """A speed such as 100x."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)x?", text)
    factor = float(match[1]) if match else 0.0
    if not 0 < factor < float("inf"):
        raise typer.BadParameter(f"{text!r} is not a speed; write for example 100x")
    return factor


TEXT_SCAN_S = 10.0
NO_TEXT = "(no text)"
Timeout = Annotated[float, typer.Option(help="Seconds to wait for the feed.", min=0.1)]


def publish(
    file: Annotated[Path, typer.Argument(help="File of JSON lines, one event each; - reads stdin.")] = Path("-"),
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first refused line.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until feeds can show the events.")] = False,
) -> None:
    """Publish events, each to the topic of its type."""
    from infra.ops import publish as command
    from infra.ports.settings import load

    raise typer.Exit(command.run(file, load(), strict=strict, wait=wait))


def feed(
    user: User,
    size: Annotated[int | None, typer.Option(help="Number of posts (default: 35).", min=1, max=200)] = None,
    in_network_only: Annotated[
        bool, typer.Option("--in-network-only", help="Only posts by authors the viewer follows.")
    ] = False,
    exclude_videos: Annotated[bool, typer.Option("--exclude-videos", help="No posts with video.")] = False,
    lang: Annotated[list[str] | None, typer.Option(help="Only posts in this language; repeatable.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Explain the feed as well.")] = False,
    at: Annotated[
        int | None, typer.Option(help="Request time in epoch ms, for the log's clock (default: now).", min=0)
    ] = None,
    timeout: Timeout = 10.0,
    text: Annotated[
        bool, typer.Option("--text/--no-text", help="Print the texts; scans the topic thunder-posts, 10 s at most.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Request a feed, wait for it and print it."""
    from feed_worker.client import Client
    from infra.ops.explain import ExplainedFeed
    from infra.ops.post_texts import read_texts
    from infra.ports.settings import load
    from infra.terminal import explanation as explain_view
    from infra.terminal.feeds import feed_table
    from infra.terminal.tables import console

    flags = {"in_network_only": in_network_only, "exclude_videos": exclude_videos, "explain": explain}
    options = given(size=size, langs=lang or None) | {name: True for name, wanted in flags.items() if wanted}
    settings = load()
    with Client(settings) as client:
        answer = client.wait(user, client.request_feed(user, at=at, **options), timeout)
        explanation = client.explain(user) if explain and not as_json else None
    if as_json:
        print_json(answer)
        return
    texts = read_texts(settings, [item.post_id for item in answer.items], TEXT_SCAN_S) if text else None
    console().print(feed_table(answer, text_of=None if texts is None else lambda post: texts.get(post) or NO_TEXT))
    if explanation:
        console().print(explain_view.view(ExplainedFeed(explanation, answer)), highlight=False)


def explain(
    user: User,
    item: Annotated[
        int | None, typer.Option(metavar="RANK", help="Show all predictions and terms of one item.", min=1)
    ] = None,
    post: Annotated[
        str | None, typer.Option(parser=published_id, metavar="ID", help="Show why this post was shown or dropped.")
    ] = None,
    ask: Annotated[
        bool | None,
        typer.Option("--ask/--no-ask", help="Request an explained feed (default: only if none exists)."),
    ] = None,
    timeout: Timeout = 10.0,
    as_json: AsJson = False,
) -> None:
    """Explain a user's last explained feed: candidates, drops and scores."""
    from feed_worker.client import Client
    from infra.ops import explain as command
    from infra.ports.settings import load
    from infra.terminal import explanation as explain_view
    from infra.terminal.tables import console

    if item is not None and post is not None:
        raise typer.BadParameter("--item and --post exclude each other")
    with Client(load()) as client:
        explained = command.explained(client, user, ask=ask, timeout_s=timeout, err=console(stderr=True))
    explanation = explained.explanation
    if post is not None:
        outcome = command.outcome_of(explanation, post)
        print_result(outcome.as_json(), explain_view.outcome_view(outcome), as_json=as_json)
    elif item is None:
        print_result(explanation, explain_view.view(explained), as_json=as_json)
    elif item <= len(explanation.items):
        print_result(explanation.items[item - 1], explain_view.item_view(explanation.items[item - 1]), as_json=as_json)
    else:
        raise typer.BadParameter(f"--item {item}: the feed has {len(explanation.items)} items")


def schemas(
    topic: Annotated[str | None, typer.Argument(help="Input topic, feed or explain (default: all).")] = None,
) -> None:
    """Print the JSON Schemas of events, feeds and explanations."""
    from feed_worker.documents.explanation import explanation_schema
    from feed_worker.documents.feed import feed_schema
    from thunder_ingest.events.schemas import json_schemas

    known = json_schemas() | {"feed": feed_schema(), "explain": explanation_schema()}
    if topic is not None and topic not in known:
        raise typer.BadParameter(f"no schema {topic!r}; choose one of {', '.join(known)}")
    print_json(known if topic is None else known[topic])


def replay(
    directory: Annotated[
        Path, typer.Argument(help="Directory of posts, engagements and social-graph.jsonl [.gz|.zst].")
    ],
    embedded: Annotated[bool, typer.Option("--embedded", help="Run a system of its own for the replay.")] = False,
    speed: Annotated[
        float | None,
        typer.Option(
            parser=speed_factor, metavar="SPEED", help="Multiple of real time, such as 100x (default: no limit)."
        ),
    ] = None,
    feeds: Annotated[int, typer.Option(help="Request feeds for this many of the most active users.", min=0)] = 10,
    show: Annotated[int, typer.Option(help="Print this many of the feeds.", min=0)] = 3,
    max_post_age: MaxPostAge = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first unusable line.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish event logs in event-time order, count every line, request feeds."""
    from infra.ops.replay import command as command
    from infra.ports.settings import load
    from infra.terminal.replay import FeedPrinter, line_counts_table
    from infra.terminal.tables import console

    if max_post_age is not None and not embedded:
        raise typer.BadParameter(
            "--max-post-age needs --embedded; for a running system use `foryou up --max-post-age …`"
        )
    settings = load(**given(max_post_age_ms=max_post_age), clock="log") if embedded else load()
    err = console(stderr=True)
    printer = FeedPrinter(err if as_json else console(), show)
    counts = command.run(command.Replay(directory, embedded, speed, feeds, strict), settings, err, printer)
    if as_json:
        sys.stdout.write(json.dumps(counts.as_json()) + "\n")
    else:
        console().print(line_counts_table(counts))
