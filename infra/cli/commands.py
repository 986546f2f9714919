"""The commands of `foryou`, declared: each one's work is in a module of its own, loaded when it is asked for."""

import json
import re
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from infra.cli.evaluate import evaluate
from infra.cli.train import train
from infra.ports.settings import UP_KAFKA_PORT, UP_REDIS_PORT, load

if TYPE_CHECKING:
    from infra.ops.dead_letter_query import Selection

STATE = Path(".foryou")
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

app = typer.Typer(
    name="foryou",
    help="A For You feed as a streaming dataflow: publish events to Kafka, read ranked feeds from Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

state_app = typer.Typer(help="Show what the system knows of a user or a post.", no_args_is_help=True)
rebuild_app = typer.Typer(help="Derive again from the log what was lost.", no_args_is_help=True)
models_app = typer.Typer(help="Show which model is current, or make another one so.", invoke_without_command=True)
app.add_typer(state_app, name="state")
app.add_typer(rebuild_app, name="rebuild")
app.add_typer(models_app, name="models")


class Clock(StrEnum):
    """Whose time rules about age go by."""

    wall = "wall"
    log = "log"


def _duration_ms(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", text)
    duration_ms = int(float(match[1]) * _UNITS_MS[match[2]]) if match else 0
    if not duration_ms:
        raise typer.BadParameter(f"{text!r} is not a duration such as 30d, 48h, 90m or 10s")
    return duration_ms


def _speed(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x?", text)
    speed = float(match[1]) if match else 0.0
    if not speed:
        raise typer.BadParameter(f"{text!r} is not a speed such as 100x")
    return speed


def _published_id(text: str) -> str:
    from thunder_ingest.events.ids import PublishedId, id64, published_form

    try:
        id64(msgspec.convert(text, PublishedId))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} cannot be an id: {error}") from None
    return published_form(text)


def _print_json(value: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.flush()


User = Annotated[str, typer.Argument(help="the viewer's id as published")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
MaxPostAge = Annotated[
    int | None,
    typer.Option(parser=_duration_ms, metavar="DURATION", help="older posts are no candidates, such as 30d"),
]


@app.command()
def up(
    kafka_port: Annotated[int, typer.Option(help="of the embedded Kafka")] = UP_KAFKA_PORT,
    redis_port: Annotated[int, typer.Option(help="of the embedded Redis")] = UP_REDIS_PORT,
    clock: Annotated[Clock | None, typer.Option(help="wall: service; log: replays of old logs")] = None,
    max_post_age: MaxPostAge = None,
    external: Annotated[
        bool, typer.Option(help="no servers of its own: flows and a worker on the Kafka and Redis of the settings")
    ] = False,
    state: Annotated[
        Path, typer.Option(help="with --external: where flows remember how far they are; one for each Kafka")
    ] = STATE,
) -> None:
    """Run the whole system on this machine until Ctrl-C, for any Kafka client and any Redis client."""
    from infra.stack import up as command
    from infra.terminal.tables import console

    settings = load(**_given(clock=clock and clock.value, max_post_age_ms=max_post_age))
    if external:
        command.run_external(settings, state, console(stderr=True))
    else:
        command.run(settings, kafka_port, redis_port, console(stderr=True))


@app.command()
def demo() -> None:
    """Run the whole system on a generated world for less than a minute and show the feeds of a few viewers."""
    from infra.stack import demo as command
    from infra.terminal.tables import console

    command.run(load(), console(), console(stderr=True))


@app.command()
def publish(
    file: Annotated[Path, typer.Argument(help="JSON lines of events of any input topic; - reads stdin")] = Path("-"),
    strict: Annotated[bool, typer.Option(help="stop at the first line that is refused")] = False,
) -> None:
    """Publish events, each to the topic of its type; refused lines are named, and the exit code is then 1."""
    from infra.ops import publish as command

    raise typer.Exit(command.run(file, load(), strict=strict))


@app.command()
def feed(
    user: User,
    size: Annotated[int | None, typer.Option(help="how many posts", min=1, max=200)] = None,
    in_network_only: Annotated[bool, typer.Option(help="only posts of those the viewer follows")] = False,
    exclude_videos: Annotated[bool, typer.Option(help="no posts with video")] = False,
    lang: Annotated[list[str] | None, typer.Option(help="only posts in this language; repeatable")] = None,
    explain: Annotated[bool, typer.Option(help="show also how it came about")] = False,
    at: Annotated[
        int | None, typer.Option(help="time of the request, epoch ms: for a system on the log's clock")
    ] = None,
    timeout: Annotated[float, typer.Option(help="seconds to wait", min=0.1)] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Request a feed, wait for it and show it; the exit code is 1 where the request failed or expired."""
    from feed_worker.client import Client
    from infra.ops.explain import Explained
    from infra.terminal import explanation as explain_view
    from infra.terminal.tables import console, feed_table

    options = _given(size=size, langs=lang or None) | {
        name: True
        for name, wanted in (
            ("in_network_only", in_network_only),
            ("exclude_videos", exclude_videos),
            ("explain", explain),
        )
        if wanted
    }
    with Client(load()) as client:
        answer = client.wait(user, client.request_feed(user, at=at, **options), timeout)
        explanation = client.explain(user) if explain and not as_json else None
    _show(answer, feed_table(answer), as_json=as_json)
    if explanation:
        console().print(explain_view.view(Explained(explanation, answer)), highlight=False)


@app.command()
def explain(
    user: User,
    item: Annotated[int | None, typer.Option(metavar="RANK", help="one item: all predictions and terms", min=1)] = None,
    post: Annotated[
        str | None, typer.Option(parser=_published_id, metavar="ID", help="what became of this post, shown or not")
    ] = None,
    ask: Annotated[
        bool | None,
        typer.Option("--ask/--no-ask", help="request an explained feed; by default where none was explained yet"),
    ] = None,
    timeout: Annotated[float, typer.Option(help="seconds to wait for that", min=0.1)] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Show how the user's last explained feed came about: where candidates came from and went, how scores add up."""
    from feed_worker.client import Client
    from infra.ops import explain as command
    from infra.terminal import explanation as explain_view
    from infra.terminal.tables import console

    if item is not None and post is not None:
        raise typer.BadParameter("--item and --post exclude each other")
    with Client(load()) as client:
        explained = command.explained(client, user, ask=ask, timeout_s=timeout, err=console(stderr=True))
    explanation = explained.explanation
    if post is not None:
        fate = command.fate_of(explanation, post)
        _show(fate.as_json(), explain_view.fate_view(fate), as_json=as_json)
    elif item is None:
        _show(explanation, explain_view.view(explained), as_json=as_json)
    elif item <= len(explanation.items):
        _show(explanation.items[item - 1], explain_view.item_view(explanation.items[item - 1]), as_json=as_json)
    else:
        raise typer.BadParameter(f"the feed has {len(explanation.items)} items")


def _show(document: Any, view: Any, *, as_json: bool) -> None:
    from infra.terminal.tables import console

    if as_json:
        _print_json(document)
    else:
        console().print(view, highlight=False)


@app.command()
def schemas(topic: Annotated[str | None, typer.Argument(help="an input topic, `feed` or `explain`")] = None) -> None:
    """Print the JSON Schemas of what apps publish, and of what they read: feeds and explanations."""
    from feed_worker.documents.feed import explanation_schema, feed_schema
    from thunder_ingest.events.schemas import json_schemas

    known = json_schemas() | {"feed": feed_schema(), "explain": explanation_schema()}
    if topic is not None and topic not in known:
        raise typer.BadParameter(f"no schema {topic!r}; there are {', '.join(known)}")
    _print_json(known if topic is None else known[topic])


@app.command()
def topics(
    create: Annotated[bool, typer.Option(help="create those that are missing")] = False, as_json: AsJson = False
) -> None:
    """Show the topics and how they stand on the broker; the exit code is 1 where something is wrong with them."""
    from infra.ports.kafka_admin import create_topics, describe
    from infra.terminal.tables import console, topics_table

    settings = load()
    if create:
        created = create_topics(settings)
        sys.stderr.write(f"created: {', '.join(created) or 'nothing was missing'}\n")
    states = describe(settings)
    if as_json:
        _print_json([state._asdict() | {"problem": state.problem} for state in states])
    else:
        console().print(topics_table(states))
    raise typer.Exit(1 if any(state.problem for state in states) else 0)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is in the way of a running system, and what to do about it; the exit code is 1 where something is."""
    from infra.ops import doctor as command
    from infra.terminal.tables import console

    checks = command.examine(load())
    if as_json:
        _print_json([check._asdict() for check in checks])
    else:
        console().print(command.table(checks))
    raise typer.Exit(1 if command.failed(checks) else 0)


@app.command()
def replay(
    directory: Annotated[
        Path, typer.Argument(help="with posts.jsonl, engagements.jsonl, social-graph.jsonl [.gz|.zst]")
    ],
    embedded: Annotated[bool, typer.Option(help="in a system of its own, for the time of the replay")] = False,
    speed: Annotated[
        float | None, typer.Option(parser=_speed, metavar="SPEED", help="such as 100x; default: as fast as it goes")
    ] = None,
    feeds: Annotated[int, typer.Option(help="then request feeds for the N most active users", min=0)] = 10,
    show: Annotated[int, typer.Option(help="show so many of them", min=0)] = 3,
    max_post_age: MaxPostAge = None,
    strict: Annotated[bool, typer.Option(help="stop at the first line that cannot be used")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a directory of event logs in event-time order, account for every line, and show feeds."""
    from infra.ops.replay import command as command
    from infra.terminal.replay_view import Gallery, account_table
    from infra.terminal.tables import console

    if max_post_age is not None and not embedded:
        raise typer.BadParameter(
            "--max-post-age goes with --embedded; for a running system: foryou up --max-post-age …"
        )
    settings = load(**_given(max_post_age_ms=max_post_age), clock="log") if embedded else load()
    err = console(stderr=True)
    gallery = Gallery(err if as_json else console(), show)
    account = command.run(command.Replay(directory, embedded, speed, feeds, strict), settings, err, gallery)
    if as_json:
        sys.stdout.write(json.dumps(account.as_json()) + "\n")
    else:
        console().print(account_table(account))


@app.command()
def dead_letters(
    topic: Annotated[str | None, typer.Option(help="refused from this topic")] = None,
    reason: Annotated[str | None, typer.Option(metavar="SUBSTRING", help="part of the reason, in either case")] = None,
    since: Annotated[
        int | None, typer.Option(parser=_duration_ms, metavar="DURATION", help="refused no longer ago, such as 2h")
    ] = None,
    partition: Annotated[int | None, typer.Option(help="where the message stood", min=0)] = None,
    offset: Annotated[int | None, typer.Option(help="where the message stood", min=0)] = None,
    limit: Annotated[
        int | None, typer.Option(help="the newest so many; by default 20 are listed, all are republished", min=1)
    ] = None,
    summary: Annotated[bool, typer.Option("--summary", help="count them by topic and reason")] = False,
    show: Annotated[bool, typer.Option("--show", help="print the whole value of the one that is meant")] = False,
    republish: Annotated[
        bool, typer.Option("--republish", help="publish those meant again, to the topics they came from")
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=JSON", help="with --republish: replace a field of each first; repeatable"),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="with --republish: also those that it has delivered before")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="with --republish: do not ask")] = False,
    as_json: AsJson = False,
) -> None:
    """List refused messages: where they stood, why they were refused, how they begin; or publish them again."""
    from infra.ops.dead_letter_query import Selection
    from infra.ports.topics import INPUTS

    if topic not in (None, *INPUTS):
        raise typer.BadParameter(f"{topic!r} is no topic that apps write; those are {', '.join(INPUTS)}")
    if summary + show + republish > 1:
        raise typer.BadParameter("--summary, --show and --republish exclude each other")
    if not republish and (changes or again or yes):
        raise typer.BadParameter("--set, --again and --yes go with --republish")
    since_ms = None if since is None else time.time_ns() // 1_000_000 - since
    selection = Selection(topic, reason, since_ms, partition, offset)
    if republish:
        _republish(selection, limit, changes or [], again=again, yes=yes, as_json=as_json)
    elif summary:
        _summarise(selection, as_json=as_json)
    elif show:
        _show_letter(selection, as_json=as_json)
    else:
        _list_letters(selection, limit or 20, as_json=as_json)


def _list_letters(selection: "Selection", limit: int, *, as_json: bool) -> None:
    from infra.ops import dead_letter_query as command
    from infra.terminal.tables import console

    letters, meant = command.listed(load(), selection, limit, console(stderr=True))
    if as_json:
        _print_json([command.as_json(letter) for letter in letters])
    else:
        console().print(command.table(letters, meant))


def _summarise(selection: "Selection", *, as_json: bool) -> None:
    from infra.ops import dead_letter_query as command
    from infra.terminal.tables import console

    sums = command.summed(load(), selection, console(stderr=True))
    if as_json:
        _print_json(sums)
    else:
        console().print(command.summary_table(sums))


def _show_letter(selection: "Selection", *, as_json: bool) -> None:
    from infra.ops import dead_letter_query as command
    from infra.terminal.tables import console

    letters, meant = command.listed(load(), selection, 1, console(stderr=True))
    if meant != 1:
        narrow = "; name one with --topic, --partition and --offset" if meant else ""
        sys.stderr.write(f"foryou: {meant or 'no'} dead letters are meant{narrow}\n")
        raise typer.Exit(2 if meant else 1)
    if as_json:
        _print_json(command.as_json(letters[0]))
    else:
        sys.stdout.buffer.write((letters[0].value or b"") + (b"\n" if sys.stdout.isatty() else b""))
        sys.stdout.flush()


def _republish(
    selection: "Selection", limit: int | None, changes: list[str], *, again: bool, yes: bool, as_json: bool
) -> None:
    from infra.ops import republish as command
    from infra.ops.message_fix import Fix
    from infra.terminal.tables import console

    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("--republish asks first, and here nobody can answer; say --yes")
    try:
        fix = Fix.parse(changes)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    err = console(stderr=True)

    def confirm(chosen: command.Chosen) -> bool:
        return yes or typer.confirm(command.question(chosen, err), err=True)

    answer = command.run(load(), selection, limit=limit, fix=fix, again=again, confirm=confirm, err=err)
    if answer is None:
        raise typer.Exit(1)
    if as_json:
        _print_json(answer)
    else:
        console().print(command.view(answer))
    raise typer.Exit(0 if answer.is_whole else 1)


@state_app.command("user")
def state_user(
    user: Annotated[str, typer.Argument(parser=_published_id, metavar="ID", help="the user's id as published")],
    limit: Annotated[int, typer.Option(help="show so many of each kind, the newest where times are kept", min=0)] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what is known of a user: history, follows, blocks, mutes, keywords, subscriptions, seen, served."""
    from infra.ops import state_user as command
    from infra.terminal.tables import console

    document = command.read(load(), user, limit)
    if document is None:
        sys.stderr.write(
            f"foryou: nothing is known of user {user}: no engagement, impression or edge has come, or Redis was "
            "emptied since (`foryou rebuild users`)\n"
        )
        raise typer.Exit(1)
    if as_json:
        _print_json(document)
    else:
        console().print(command.view(document))


@state_app.command("post")
def state_post(
    post: Annotated[str, typer.Argument(parser=_published_id, metavar="ID", help="the post's id, in any form")],
    as_json: AsJson = False,
) -> None:
    """Show what is known of a post: as served or when it was deleted, its counts, whether it has a vector."""
    from infra.ops import state_post as command
    from infra.terminal.tables import console

    document = command.read(load(), post, console(stderr=True))
    if document is None:
        sys.stderr.write(
            f"foryou: nothing is known of post {post}: it was never published, was refused (`foryou dead-letters`), or "
            "became too old\n"
        )
        raise typer.Exit(1)
    if as_json:
        _print_json(document)
    else:
        console().print(command.view(document))


@models_app.callback()
def models(context: typer.Context, as_json: AsJson = False) -> None:
    """Show which model is current, or make another one so: flows and workers go over to it while they run."""
    from infra.ops import model_command as command

    if context.invoked_subcommand is None:
        model = command.current(load())
        _show(model, command.table(model), as_json=as_json)


@models_app.command("use")
def models_use(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint, or a directory of them: its newest")],
    as_json: AsJson = False,
) -> None:
    """Announce a checkpoint: flows and workers go over to it without a pause, and begin with it from now on."""
    from infra.ops import model_command as command

    model = command.use(load(), checkpoint)
    _show(model, command.table(model), as_json=as_json)


@rebuild_app.command("users")
def rebuild_users(as_json: AsJson = False) -> None:
    """Write the users' state to Redis again, from the log as far as it reaches; safe while the flows run."""
    from infra.ops import rebuild_users as command
    from infra.terminal.tables import console

    rebuilt = command.run(load(), console(stderr=True))
    if as_json:
        _print_json(rebuilt)
    else:
        console().print(command.told(rebuilt), highlight=False, markup=False)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


app.command()(train)
app.command()(evaluate)
