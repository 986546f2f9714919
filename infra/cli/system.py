"""`foryou up`, `demo`, `doctor` and `topics`: run the whole system, and check its servers."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.options import AsJson, MaxPostAge, given, print_result

STATE = Path(".foryou")


class Clock(StrEnum):
    """The clock that rules about age use."""

    wall = "wall"
    log = "log"


def up(
    kafka_port: Annotated[
        int | None, typer.Option(help="Port of the embedded Kafka (default: 19092).", min=1, max=65_535)
    ] = None,
    redis_port: Annotated[
        int | None, typer.Option(help="Port of the embedded Redis (default: 16379).", min=1, max=65_535)
    ] = None,
    clock: Annotated[
        Clock | None, typer.Option(help="Clock for ages: wall, or log to replay old logs (default: wall).")
    ] = None,
    max_post_age: MaxPostAge = None,
    external: Annotated[
        bool, typer.Option("--external", help="Use the Kafka and Redis of the settings, not embedded ones.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Keep data here (default: .foryou/data; with --external .foryou/external).")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start without data; keep none.")] = False,
) -> None:
    """Run the whole system on this machine until Ctrl-C."""
    from infra.ports.settings import UP_KAFKA_PORT, UP_REDIS_PORT, load
    from infra.stack import up as command
    from infra.terminal.tables import console

    if fresh and (external or data):
        raise typer.BadParameter("--fresh excludes --data and --external")
    settings = load(**given(clock=clock and clock.value, max_post_age_ms=max_post_age))
    err = console(stderr=True)
    ports = kafka_port or UP_KAFKA_PORT, redis_port or UP_REDIS_PORT
    if external:
        command.run_external(settings, data or STATE / "external", err)
    elif fresh:
        command.run_fresh(settings, *ports, err)
    else:
        command.run(settings, data or STATE / "data", *ports, err)


def demo() -> None:
    """Run a generated world through the system; show some feeds."""
    from infra.ports.settings import load
    from infra.stack import demo as command
    from infra.terminal.tables import console

    command.run(load(), console(), console(stderr=True))


def doctor(as_json: AsJson = False) -> None:
    """Check packages, servers, topics, flows and workers; print remedies."""
    from infra.ops import doctor as command
    from infra.ports.settings import load
    from infra.terminal.system import checks_table

    checks = command.examine(load())
    print_result([check._asdict() for check in checks], checks_table(checks), as_json=as_json)
    raise typer.Exit(1 if command.failed(checks) else 0)


def topics(
    create: Annotated[bool, typer.Option("--create", help="Create missing topics.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Set the settings that differ.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Show only the topics with a problem.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the topics and their state on the broker; exit with 1 if one differs."""
    from infra.ports.kafka_admin import create_topics, describe, repair_topics
    from infra.ports.settings import load
    from infra.terminal.system import topics_table

    settings = load()
    if create:
        created = create_topics(settings)
        sys.stderr.write(f"created: {', '.join(created) or 'no topic was missing'}\n")
    if repair:
        changed = repair_topics(settings)
        sys.stderr.write(f"changed: {', '.join(changed) or 'no setting differed'}\n")
    states = [state for state in describe(settings) if state.problem or not check]
    rows = [state._asdict() for state in states]
    print_result(rows, topics_table(states), as_json=as_json)
    raise typer.Exit(1 if any(state.problem for state in states) else 0)
