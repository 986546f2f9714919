"""Parsers and types of the options that several commands share, and the output of a result as JSON or a view."""

import re
import sys
from typing import Annotated, Any, NoReturn

import msgspec
import typer

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(text: str) -> int:
    """Milliseconds of a duration such as 30d, 48h, 90m, 10s or 250ms."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)", text)
    found_ms = float(match[1]) * _UNITS_MS[match[2]] if match else 0.0
    if not 1 <= found_ms < 2**63:
        raise typer.BadParameter(f"{text!r} is not a duration; write for example 30d, 48h, 90m or 10s")
    return int(found_ms)


def published_id(text: str) -> str:
    """An id in its published form."""
    from thunder_ingest.events.ids import ID_RULE, PublishedId, id64, published_form

    try:
        id64(msgspec.convert(text, PublishedId))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an id: {ID_RULE}") from None
    return published_form(text)


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave."""
    return {name: value for name, value in options.items() if value is not None}


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.flush()


def print_result(document: Any, view: Any, *, as_json: bool) -> None:
    """Print the document as JSON, or its view on the terminal."""
    from infra.terminal.tables import console

    if as_json:
        print_json(document)
    else:
        console().print(view, highlight=False)


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Print an error in one line and end the command."""
    sys.stderr.write(f"foryou: {message}\n")
    raise typer.Exit(code)


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
User = Annotated[str, typer.Argument(parser=published_id, metavar="USER", help="Viewer's id as published.")]
MaxPostAge = Annotated[
    int | None,
    typer.Option(parser=duration_ms, metavar="DURATION", help="Maximum age of candidates, such as 30d (default: 48h)."),
]
