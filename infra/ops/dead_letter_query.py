"""`foryou dead-letters`: what the flows and workers refused, found again, summed up and shown."""

import heapq
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec
import xxhash
from confluent_kafka import Message
from rich.console import Console
from rich.table import Table

from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from infra.terminal.progress import Advance, Report
from infra.terminal.tables import moment, plain
from thunder_ingest.events import DeadLetter, unpack_dead_letter

log = logging.getLogger(__name__)

SHOWN_BYTES = 60
_VARYING = re.compile(r"'[^']*'|\d[\d,.]*")
"""What differs between reasons that are one: quoted values and numbers."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant; what is None does not matter."""

    topic: str | None = None
    reason: str | None = None
    """Part of the reason, in either case."""
    since_ms: int | None = None
    """Refused at this time (epoch ms) or later."""
    partition: int | None = None
    offset: int | None = None

    def holds(self, letter: DeadLetter) -> bool:
        """Whether a letter is meant."""
        return (
            self.topic in (None, letter.topic)
            and self.partition in (None, letter.partition)
            and self.offset in (None, letter.offset)
            and (self.since_ms is None or letter.at >= self.since_ms)
            and (self.reason is None or self.reason.casefold() in letter.reason.casefold())
        )


class Sum(msgspec.Struct):
    """How many messages of a topic were refused for one reason; what varies in the reason is `…`."""

    topic: str
    reason: str
    count: int
    newest_at: int


def identity(letter: DeadLetter) -> bytes:
    """16 bytes that tell one refused message from every other, however often it was refused."""
    where = f"{letter.topic} {letter.partition} {letter.offset} {letter.value is None}".encode()
    return xxhash.xxh3_128_digest(b"\0".join((where, letter.key or b"", letter.value or b"")))


def select(settings: Settings, selection: Selection, advance: Advance) -> Iterator[DeadLetter]:
    """The dead letters that are meant, each message once: a flow that starts over refuses it again."""
    seen = set[bytes]()
    for messages in scan(settings, ["dead-letters"], advance):
        for letter in _letters(messages):
            if selection.holds(letter) and (mark := identity(letter)) not in seen:
                seen.add(mark)
                yield letter


def _letters(messages: Iterable[Message]) -> Iterator[DeadLetter]:
    for message in messages:
        try:
            yield unpack_dead_letter(message.value() or b"")
        except msgspec.DecodeError as error:
            where = f"dead-letters[{message.partition()}] at offset {message.offset()}"
            log.error("what stands in %s is no dead letter: %s", where, error)


def newest(letters: Iterable[DeadLetter], limit: int) -> list[DeadLetter]:
    """The newest dead letters, newest first."""
    return heapq.nlargest(limit, letters, key=lambda letter: letter.at)


def listed(settings: Settings, selection: Selection, limit: int, err: Console) -> tuple[list[DeadLetter], int]:
    """The newest dead letters that are meant, newest first, and how many are meant; `err` takes the progress."""
    with Report(err) as report, report.step("dead-letters is read") as advance:
        meant = count()
        letters = (letter for letter in select(settings, selection, advance) if next(meant) >= 0)
        return newest(letters, limit), next(meant)


def summed(settings: Settings, selection: Selection, err: Console) -> list[Sum]:
    """The dead letters that are meant, by topic and reason; `err` takes the progress."""
    with Report(err) as report, report.step("dead-letters is read") as advance:
        return summary(select(settings, selection, advance))


def summary(letters: Iterable[DeadLetter]) -> list[Sum]:
    """Dead letters by topic and reason, the most frequent first."""
    sums: dict[tuple[str, str], Sum] = {}
    for letter in letters:
        group = letter.topic, _VARYING.sub("…", letter.reason)
        known = sums.setdefault(group, Sum(*group, 0, 0))
        known.count, known.newest_at = known.count + 1, max(known.newest_at, letter.at)
    return sorted(sums.values(), key=lambda each: (-each.count, each.topic, each.reason))


def as_json(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter for readers: its bytes as text."""
    texts = {name: raw and raw.decode(errors="replace") for name, raw in (("key", letter.key), ("value", letter.value))}
    return msgspec.structs.asdict(letter) | texts


def table(letters: Sequence[DeadLetter], meant: int) -> Table:
    """Dead letters on a terminal; `meant`: how many there are, those not listed included."""
    more = f"the newest {len(letters):,} of {meant:,}; `--summary` counts them all" if meant > len(letters) else None
    rendered = Table(caption=more)
    for column in ("refused at", "topic", "partition", "offset", "reason", "begins with"):
        rendered.add_column(column, overflow="fold")
    for letter in letters:
        beginning = (letter.value or b"")[:SHOWN_BYTES].decode(errors="replace")
        place = (letter.topic, str(letter.partition), str(letter.offset))
        rendered.add_row(*map(plain, (moment(letter.at), *place, letter.reason, beginning)))
    return rendered


def summary_table(sums: Sequence[Sum]) -> Table:
    """The summary on a terminal."""
    rendered = Table()
    for column in ("topic", "reason"):
        rendered.add_column(column, overflow="fold")
    rendered.add_column("messages", justify="right")
    rendered.add_column("newest")
    for each in sums:
        rendered.add_row(plain(each.topic), plain(each.reason), f"{each.count:,}", moment(each.newest_at))
    return rendered
