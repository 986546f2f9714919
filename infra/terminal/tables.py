"""The console, and what all tables share: plain text, times and counts."""

import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

PIPED_WIDTH = 160
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def console(*, stderr: bool = False) -> Console:
    """A console for stdout or stderr; 160 columns wide where the stream is not a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPED_WIDTH)


def plain(text: str) -> str:
    """Text in one line, safe to print: rich markup is escaped, a control character becomes U+FFFD."""
    return escape(stripped(text))


def stripped(text: str) -> str:
    """Text in one line; a control character becomes U+FFFD. For renderables that read no markup."""
    return _CONTROL.sub("\ufffd", " ".join(text.split()))


def moment(at_ms: int) -> str:
    """A time in UTC, such as 2026-07-21 10:00:00.000Z."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(" ", "milliseconds").replace("+00:00", "Z")


def counts_table(title: str, counts: Mapping[str, int | str]) -> Table:
    """Names and figures, one pair a row."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in counts.items():
        table.add_row(plain(name), f"{value:,}" if isinstance(value, int) else value)
    return table
