"""The commands of `foryou`, declared: each one's work is in a module of its own, loaded when it is asked for."""

import json
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from infra.settings import UP_KAFKA_PORT, UP_REDIS_PORT, load

STATE = Path(".foryou")
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

app = typer.Typer(
    name="foryou",
    help="A For You feed as a streaming dataflow: publish events to Kafka, read ranked feeds from Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    from infra import up as command
    from infra.tables import console

    settings = load(**_given(clock=clock and clock.value, max_post_age_ms=max_post_age))
    if external:
        command.run_external(settings, state, console(stderr=True))
    else:
        command.run(settings, kafka_port, redis_port, console(stderr=True))


@app.command()
def demo() -> None:
    """Run the whole system on a generated world for less than a minute and show the feeds of a few viewers."""
    from infra import demo as command
    from infra.tables import console

    command.run(load(), console(), console(stderr=True))


@app.command()
def publish(
    file: Annotated[Path, typer.Argument(help="JSON lines of events of any input topic; - reads stdin")] = Path("-"),
    strict: Annotated[bool, typer.Option(help="stop at the first line that is refused")] = False,
) -> None:
    """Publish events, each to the topic of its type; refused lines are named, and the exit code is then 1."""
    from infra import publish as command

    raise typer.Exit(command.run(file, load(), strict=strict))


@app.command()
def feed(
    user: User,
    size: Annotated[int | None, typer.Option(help="how many posts", min=1, max=200)] = None,
    in_network_only: Annotated[bool, typer.Option(help="only posts of those the viewer follows")] = False,
    exclude_videos: Annotated[bool, typer.Option(help="no posts with video")] = False,
    explain: Annotated[bool, typer.Option(help="show also how it came about")] = False,
    at: Annotated[
        int | None, typer.Option(help="time of the request, epoch ms: for a system on the log's clock")
    ] = None,
    timeout: Annotated[float, typer.Option(help="seconds to wait", min=0.1)] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Request a feed, wait for it and show it; the exit code is 1 where it failed or expired."""
    from feed_worker.client import Client
    from infra.tables import console, feed_table

    options = _given(size=size) | {
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
        if as_json:
            _print_json(answer)
        else:
            console().print(feed_table(answer))
            if explain:
                _show_explanation(client.explain(user))
    raise typer.Exit(1 if answer.status in ("failed", "expired") else 0)


@app.command()
def explain(user: User, as_json: AsJson = False) -> None:
    """Show how the last feed that was requested with --explain came about."""
    from feed_worker.client import Client

    with Client(load()) as client:
        explanation = client.explain(user)
    if explanation is None:
        sys.stderr.write(f"foryou: no explanation for user {user}; ask for one: foryou feed {user} --explain\n")
        raise typer.Exit(1)
    if as_json:
        _print_json(explanation)
    else:
        _show_explanation(explanation)


def _show_explanation(explanation: Any) -> None:
    from infra.tables import arithmetic_table, console, funnel_table

    if explanation is not None:
        console().print(funnel_table(explanation), arithmetic_table(explanation))


@app.command()
def schemas(topic: Annotated[str | None, typer.Argument(help="an input topic, or `feed`")] = None) -> None:
    """Print the JSON Schemas of what apps publish, and of the feed that they read."""
    from feed_worker.feed import feed_schema
    from thunder_ingest.schemas import json_schemas

    known = json_schemas() | {"feed": feed_schema()}
    if topic is not None and topic not in known:
        raise typer.BadParameter(f"no schema {topic!r}; there are {', '.join(known)}")
    _print_json(known if topic is None else known[topic])


@app.command()
def topics(
    create: Annotated[bool, typer.Option(help="create those that are missing")] = False, as_json: AsJson = False
) -> None:
    """Show the topics and how they stand on the broker; the exit code is 1 where something is wrong with them."""
    from infra.kafka_admin import create_topics, describe
    from infra.tables import console, topics_table

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
    from infra import doctor as command
    from infra.tables import console

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
    from infra import replay as command
    from infra.replay_view import Gallery, account_table
    from infra.tables import console

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
    limit: Annotated[int, typer.Option(help="the newest so many", min=1)] = 20, as_json: AsJson = False
) -> None:
    """List refused messages: where they stood, why they were refused, and how they begin."""
    from infra import refused as command
    from infra.tables import console

    letters = command.newest(load(), limit)
    if as_json:
        _print_json([command.as_json(letter) for letter in letters])
    else:
        console().print(command.table(letters))


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
