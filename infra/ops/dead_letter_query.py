"""Select and count dead letters: the messages that flows and workers refused."""

import heapq
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec
import xxhash
from confluent_kafka import Message
from rich.console import Console

from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from infra.terminal.progress import Advance, ProgressReport
from thunder_ingest.events import DeadLetter, unpack_dead_letter

log = logging.getLogger(__name__)

_VARYING = re.compile(r"'[^']*'|\d[\d,.]*")
"""The quoted values and numbers in a reason; reasons that differ only in these are counted together."""


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Conditions on dead letters; None sets no condition."""

    topic: str | None = None
    reason: str | None = None
    """Substring of the reason; case is ignored."""
    since_ms: int | None = None
    """Earliest time of the refusal, epoch ms."""
    partition: int | None = None
    offset: int | None = None

    def accepts(self, letter: DeadLetter) -> bool:
        """True if a letter meets every condition."""
        return (
            self.topic in (None, letter.topic)
            and self.partition in (None, letter.partition)
            and self.offset in (None, letter.offset)
            and (self.since_ms is None or letter.at >= self.since_ms)
            and (self.reason is None or self.reason.casefold() in letter.reason.casefold())
        )


class ReasonCount(msgspec.Struct):
    """Number of messages of a topic that were refused for one reason; `…` replaces the varying parts of the reason."""

    topic: str
    reason: str
    count: int
    newest_at: int


def identity(letter: DeadLetter) -> bytes:
    """16 bytes that identify one refused message, also if it was refused several times."""
    where = f"{letter.topic} {letter.partition} {letter.offset} {letter.value is None}".encode()
    return xxhash.xxh3_128_digest(b"\0".join((where, letter.key or b"", letter.value or b"")))


def select(settings: Settings, wanted: LetterFilter, advance: Advance) -> Iterator[DeadLetter]:
    """The dead letters that `wanted` accepts. Each message comes once: a flow that restarts refuses it again."""
    seen = set[bytes]()
    for messages in scan(settings, ["dead-letters"], advance):
        for letter in _letters(messages):
            if wanted.accepts(letter) and (mark := identity(letter)) not in seen:
                seen.add(mark)
                yield letter


def _letters(messages: Iterable[Message]) -> Iterator[DeadLetter]:
    for message in messages:
        try:
            yield unpack_dead_letter(message.value() or b"")
        except msgspec.DecodeError as error:
            where = f"dead-letters[{message.partition()}] at offset {message.offset()}"
            log.error("the record in %s is not a dead letter: %s", where, error)


def newest(letters: Iterable[DeadLetter], limit: int) -> list[DeadLetter]:
    """The newest dead letters, newest first."""
    return heapq.nlargest(limit, letters, key=lambda letter: letter.at)


def list_newest(settings: Settings, wanted: LetterFilter, limit: int, err: Console) -> tuple[list[DeadLetter], int]:
    """The newest accepted dead letters, newest first, and the number of all accepted ones; `err` gets the progress."""
    with ProgressReport(err) as report, report.step("read dead-letters") as advance:
        total = count()
        letters = (letter for letter in select(settings, wanted, advance) if next(total) >= 0)
        return newest(letters, limit), next(total)


def count_reasons(settings: Settings, wanted: LetterFilter, err: Console) -> list[ReasonCount]:
    """Counts of the accepted dead letters by topic and reason; `err` gets the progress."""
    with ProgressReport(err) as report, report.step("read dead-letters") as advance:
        return reason_counts(select(settings, wanted, advance))


def reason_counts(letters: Iterable[DeadLetter]) -> list[ReasonCount]:
    """Counts of dead letters by topic and reason, largest first."""
    counts: dict[tuple[str, str], ReasonCount] = {}
    for letter in letters:
        group = letter.topic, _VARYING.sub("…", letter.reason)
        known = counts.setdefault(group, ReasonCount(*group, 0, 0))
        known.count, known.newest_at = known.count + 1, max(known.newest_at, letter.at)
    return sorted(counts.values(), key=lambda each: (-each.count, each.topic, each.reason))


def as_json(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter with its key and value as text."""
    texts = {name: raw and raw.decode(errors="replace") for name, raw in (("key", letter.key), ("value", letter.value))}
    return msgspec.structs.asdict(letter) | texts
