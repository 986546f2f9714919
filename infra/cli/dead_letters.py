"""`foryou dead-letters`: list, count and show refused messages, or publish them again."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.options import AsJson, duration_ms, fail, print_json, print_result
from infra.ports.clock import now_ms

if TYPE_CHECKING:
    from infra.ops.dead_letter_query import LetterFilter

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
    from infra.ops.dead_letter_query import LetterFilter
    from infra.ports.topics import INPUTS

    if topic not in (None, *INPUTS):
        raise typer.BadParameter(f"{topic!r} is not an input topic; choose one of {', '.join(INPUTS)}")
    if summary + show + republish > 1:
        raise typer.BadParameter("--summary, --show and --republish exclude each other")
    if not republish and (changes or again or yes):
        raise typer.BadParameter("--set, --again and --yes need --republish")
    since_ms = None if since is None else now_ms() - since
    wanted = LetterFilter(topic, reason, since_ms, partition, offset)
    if republish:
        _republish(wanted, limit, changes or [], again=again, yes=yes, as_json=as_json)
    elif summary:
        _count_reasons(wanted, as_json=as_json)
    elif show:
        _show_letter(wanted, as_json=as_json)
    else:
        _list_letters(wanted, limit or LISTED, as_json=as_json)


def _list_letters(wanted: "LetterFilter", limit: int, *, as_json: bool) -> None:
    from infra.ops import dead_letter_query as query
    from infra.ports.settings import load
    from infra.terminal.dead_letters import letters_table
    from infra.terminal.tables import console

    letters, total = query.list_newest(load(), wanted, limit, console(stderr=True))
    print_result([query.as_json(letter) for letter in letters], letters_table(letters, total), as_json=as_json)


def _count_reasons(wanted: "LetterFilter", *, as_json: bool) -> None:
    from infra.ops import dead_letter_query as query
    from infra.ports.settings import load
    from infra.terminal.dead_letters import reasons_table
    from infra.terminal.tables import console

    counts = query.count_reasons(load(), wanted, console(stderr=True))
    print_result(counts, reasons_table(counts), as_json=as_json)


def _show_letter(wanted: "LetterFilter", *, as_json: bool) -> None:
    from infra.ops import dead_letter_query as query
    from infra.ports.settings import load
    from infra.terminal.tables import console

    letters, total = query.list_newest(load(), wanted, 1, console(stderr=True))
    if not letters:
        fail("no dead letter matches")
    if total > 1:
        fail(f"{total:,} dead letters match; select one with --topic, --partition and --offset", code=2)
    if as_json:
        print_json(query.as_json(letters[0]))
    else:
        sys.stdout.buffer.write((letters[0].value or b"") + (b"\n" if sys.stdout.isatty() else b""))
        sys.stdout.flush()


def _republish(
    wanted: "LetterFilter", limit: int | None, changes: list[str], *, again: bool, yes: bool, as_json: bool
) -> None:
    from infra.ops import republish
    from infra.ops.message_fix import Fix
    from infra.ports.settings import load
    from infra.terminal.dead_letters import reasons_table, republished
    from infra.terminal.tables import console

    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("--republish asks for confirmation, and stdin is not a terminal; add --yes")
    try:
        fix = Fix.parse(changes)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    err = console(stderr=True)

    def confirm(plan: republish.RepublishPlan) -> bool:
        if yes:
            return True
        err.print(reasons_table(plan.reasons))
        before = f"; {plan.delivered_before:,} delivered before are left out" if plan.delivered_before else ""
        return typer.confirm(f"Publish these {len(plan.marks):,} messages again{before}?", err=True)

    result = republish.run(load(), wanted, limit=limit, fix=fix, again=again, confirm=confirm, err=err)
    if result is None:
        raise typer.Exit(1)
    print_result(result, republished(result), as_json=as_json)
    raise typer.Exit(0 if result.is_whole else 1)
