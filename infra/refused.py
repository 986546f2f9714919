"""`foryou dead-letters`: what the flows and workers refused."""

import heapq
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.table import Table

from infra.kafka import read_to_end
from infra.settings import Settings
from infra.tables import plain
from thunder_ingest.events import DeadLetter, unpack_dead_letter

SHOWN_BYTES = 60


def newest(settings: Settings, limit: int) -> list[DeadLetter]:
    """The newest dead letters, newest first."""
    letters = (
        unpack_dead_letter(message.value() or b"")
        for messages in read_to_end(settings, "dead-letters")
        for message in messages
    )
    return heapq.nlargest(limit, letters, key=lambda letter: letter.at)


def as_json(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter for readers: its bytes as text."""
    texts = {name: raw and raw.decode(errors="replace") for name, raw in (("key", letter.key), ("value", letter.value))}
    return msgspec.structs.asdict(letter) | texts


def table(letters: Sequence[DeadLetter]) -> Table:
    """Dead letters on a terminal."""
    rendered = Table()
    for column in ("topic", "partition", "offset", "reason", "begins with"):
        rendered.add_column(column, overflow="fold")
    for letter in letters:
        beginning = (letter.value or b"")[:SHOWN_BYTES].decode(errors="replace")
        row = (letter.topic, str(letter.partition), str(letter.offset), letter.reason, beginning)
        rendered.add_row(*map(plain, row))
    return rendered
