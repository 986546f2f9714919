"""`foryou dead-letters`: list, count and show refused messages, or publish them again."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.options import AsJson, duration_ms, print_json

if TYPE_CHECKING:
    from infra.ops.dead_letter_query import Selection

SELECT, REPUBLISH = "Select", "Republish"
LISTED = 20


def dead_letters(
    topic: Annotated[
        str | None, typer.Option(help="Only messages of this input topic.", rich_help_panel=SELECT)
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(metavar="SUBSTRING", help="Only reasons with this text; ignores case.", rich_help_panel=SELECT),
    ] = None,
    since: Annotated[
        int | None,
        typer.Option(
            parser=duration_ms,
            metavar="DURATION",
            help="Only messages refused in the last DURATION, such as 2h.",
            rich_help_panel=SELECT,
        ),
    ] = None,
    partition: Annotated[
        int | None, typer.Option(help="Only messages of this partition.", min=0, rich_help_panel=SELECT)
    ] = None,
    offset: Annotated[
        int | None, typer.Option(help="Only the message at this offset.", min=0, rich_help_panel=SELECT)
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help=f"Only this many, the newest (default: list {LISTED}, republish all).", min=1, rich_help_panel=SELECT
        ),
    ] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Count messages by topic and reason.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the whole value of the one selected message.")] = False,
    republish: Annotated[
        bool,
        typer.Option("--republish", help="Publish selected messages to their topics again.", rich_help_panel=REPUBLISH),
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=JSON", help="Replace a field first; repeatable.", rich_help_panel=REPUBLISH
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Include messages that were republished before.", rich_help_panel=REPUBLISH),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.", rich_help_panel=REPUBLISH)
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List refused messages with their reasons, or publish them again."""
    from infra.ops.dead_letter_query import Selection
    from infra.ports.topics import INPUTS

    if topic not in (None, *INPUTS):
        raise typer.BadParameter(f"{topic!r} is not an input topic; choose one of {', '.join(INPUTS)}")
    if summary + show + republish > 1:
        raise typer.BadParameter("--summary, --show and --republish exclude each other")
    if not republish and (changes or again or yes):
        raise typer.BadParameter("--set, --again and --yes need --republish")
    since_ms = None if since is None else time.time_ns() // 1_000_000 - since
    selection = Selection(topic, reason, since_ms, partition, offset)
    if republish:
        _republish(selection, limit, changes or [], again=again, yes=yes, as_json=as_json)
    elif summary:
        _summarise(selection, as_json=as_json)
    elif show:
        _show_letter(selection, as_json=as_json)
    else:
        _list_letters(selection, limit or LISTED, as_json=as_json)


def _list_letters(selection: "Selection", limit: int, *, as_json: bool) -> None:
    from infra.ops import dead_letter_query as command
    from infra.ports.settings import load
    from infra.terminal.tables import console

    letters, meant = command.listed(load(), selection, limit, console(stderr=True))
    if as_json:
        print_json([command.as_json(letter) for letter in letters])
    else:
        console().print(command.table(letters, meant))


def _summarise(selection: "Selection", *, as_json: bool) -> None:
    from infra.ops import dead_letter_query as command
    from infra.ports.settings import load
    from infra.terminal.tables import console

    sums = command.summed(load(), selection, console(stderr=True))
    if as_json:
        print_json(sums)
    else:
        console().print(command.summary_table(sums))


def _show_letter(selection: "Selection", *, as_json: bool) -> None:
    from infra.ops import dead_letter_query as command
    from infra.ports.settings import load
    from infra.terminal.tables import console

    letters, meant = command.listed(load(), selection, 1, console(stderr=True))
    if meant != 1:
        narrow = "; name one with --topic, --partition and --offset" if meant else ""
        sys.stderr.write(f"foryou: {meant or 'no'} dead letters are meant{narrow}\n")
        raise typer.Exit(2 if meant else 1)
    if as_json:
        print_json(command.as_json(letters[0]))
    else:
        sys.stdout.buffer.write((letters[0].value or b"") + (b"\n" if sys.stdout.isatty() else b""))
        sys.stdout.flush()


def _republish(
    selection: "Selection", limit: int | None, changes: list[str], *, again: bool, yes: bool, as_json: bool
) -> None:
    from infra.ops import republish as command
    from infra.ops.message_fix import Fix
    from infra.ports.settings import load
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
        print_json(answer)
    else:
        console().print(command.view(answer))
    raise typer.Exit(0 if answer.is_whole else 1)
