"""What the commands that learn from a log, or judge by one, have in common: which part of which log is meant."""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from thunder_ingest.events import ACTION_INDEX, LAST_TIME_MS, ActionName, Refused, decode

if TYPE_CHECKING:
    from phoenix.log import Log

_LINES_PER_TELLING = 10_000


def time_ms(text: str) -> int:
    """Epoch milliseconds, from these or from an ISO date or time, which without an offset is UTC."""
    try:
        at = int(text) if text.isdigit() else int(_moment(text).timestamp() * 1_000)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither an ISO date or time nor epoch milliseconds") from None
    if not 0 <= at <= LAST_TIME_MS:
        raise typer.BadParameter(f"{text!r} is out of range")
    return at


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def labelled_since(options: list[str] | None) -> Mapping[ActionName, int]:
    """The times from which on actions are recorded, from ACTION=TIME; `*` stands for all that are not named."""
    given: dict[str, int] = {}
    for option in options or []:
        match = re.fullmatch(r"(\w+|\*)=(.+)", option)
        if match is None or match[1] not in {*ACTION_INDEX, "*"}:
            raise typer.BadParameter(f"{option!r} is not ACTION=TIME; actions are {', '.join(ACTION_INDEX)}, or *")
        given[match[1]] = time_ms(match[2])
    rest = given.pop("*", None)
    others = {} if rest is None else dict.fromkeys(ACTION_INDEX, rest)
    return others | cast(dict[ActionName, int], given)


LogDirectory = Annotated[
    Path, typer.Option("--log", help="with posts.jsonl and engagements.jsonl [.gz|.zst]", show_default=False)
]
Since = Annotated[
    int, typer.Option(parser=time_ms, metavar="TIME", help="first impressions that are meant: ISO or epoch ms")
]
Until = Annotated[int, typer.Option(parser=time_ms, metavar="TIME", help="the end of them, itself not included")]
LabelledSince = Annotated[
    list[str] | None,
    typer.Option(
        "--labelled-since",
        metavar="ACTION=TIME",
        help="from when on the log records an action, where not always; `*` for all not named; repeatable",
    ),
]


def read_log(directory: Path, advance: Callable[[float, float], None]) -> "tuple[Log, int]":
    """A log directory as columns, and how many of its lines could not be used.

    Raises:
        LogError: the directory holds no log, or a file of it cannot be read.

    """
    from infra.replay_log import LogReader
    from phoenix.log import log_of

    reader = LogReader(directory)
    refused = 0

    def events() -> Iterator[Any]:
        nonlocal refused
        for number, line in enumerate(reader.lines()):
            if number % _LINES_PER_TELLING == 0:
                advance(reader.bytes_read, reader.total_bytes)
            try:
                yield decode(line.topic, line.raw)
            except Refused:
                refused += 1

    log = log_of(events())
    return log, refused
