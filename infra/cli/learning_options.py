"""Options that `foryou train` and `foryou evaluate` share: the log, the span and the recorded actions."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from infra.ports.clock import HOUR_MS
from thunder_ingest.events import ACTION_INDEX, LAST_TIME_MS, ActionName, Refused, decode

if TYPE_CHECKING:
    from infra.terminal.progress import Advance, ProgressReport
    from phoenix.data.impressions import Log

_LINES_PER_REPORT = 10_000
_TOPICS = ("posts", "engagements")


def time_ms(text: str) -> int:
    """Epoch milliseconds of an ISO date or time (UTC without an offset), or of a number of epoch milliseconds."""
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
    """The recording time of each action, from options ACTION=TIME; `*` stands for all other actions."""
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
    Path | None,
    typer.Option(
        "--log",
        help="Read posts.jsonl and engagements.jsonl [.gz|.zst] here; default: Kafka's topics.",
        show_default=False,
    ),
]
Since = Annotated[
    int, typer.Option(parser=time_ms, metavar="TIME", help="Start the span here: ISO date or time, or epoch ms.")
]
Until = Annotated[
    int, typer.Option(parser=time_ms, metavar="TIME", help="End the span before this ISO date or time, or epoch ms.")
]
LabelledSince = Annotated[
    list[str] | None,
    typer.Option(
        "--labelled-since",
        metavar="ACTION=TIME",
        help="Use an action's labels from this time (`*`: all others); repeatable.",
    ),
]


def read_log(directory: Path | None, report: "ProgressReport") -> "Log":
    """A log as columns: the files of a directory, or without one the present content of Kafka's topics.

    In histories, posts above the setting `max_post_age_ms` have no words, because workers no longer have them.

    Raises:
        LogError: the directory has no log, or one of its files cannot be read.
        BrokerUnreachable, TopicMissing: the text has the address and the remedy.

    """
    from infra.ports.settings import load
    from phoenix.data.impressions import log_of

    refused = 0

    def usable(messages: Iterable[tuple[str, bytes | None]]) -> Iterator[Any]:
        nonlocal refused
        for topic, raw in messages:
            try:
                yield decode(topic, raw)
            except Refused:
                refused += 1

    with report.step(f"reading {directory or 'Kafka'}") as advance:
        messages = _from_kafka(advance) if directory is None else _from_directory(directory, advance)
        log = log_of(usable(messages), max_age_ms := load().max_post_age_ms)
    report.print_line(f"posts older than {max_age_ms / HOUR_MS:g} h have no words in histories (max_post_age_ms)")
    if refused:
        where = "dead-letters" if directory is None else "replay"
        report.print_line(f"{refused:,} messages are invalid (`foryou {where}` lists them)")
    return log


def _from_directory(directory: Path, advance: "Advance") -> Iterator[tuple[str, bytes | None]]:
    from infra.ops.replay.log_reader import LogReader

    reader = LogReader(directory)
    for number, line in enumerate(reader.lines()):
        if number % _LINES_PER_REPORT == 0:
            advance(reader.bytes_read, reader.total_bytes)
        yield line.topic, line.raw


def _from_kafka(advance: "Advance") -> Iterator[tuple[str, bytes | None]]:
    from infra.ports.settings import load
    from infra.ports.topic_reader import scan

    for messages in scan(load(), _TOPICS, advance):
        for message in messages:
            yield message.topic() or "", message.value()
