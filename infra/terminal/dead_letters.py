"""Tables of dead letters and of their republication."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from infra.ops.dead_letter_query import ReasonCount
from infra.ops.republish import RepublishResult
from infra.terminal.tables import counts_table, moment, plain
from thunder_ingest.events import DeadLetter

SHOWN_BYTES = 60
NAMED = 20


def letters_table(letters: Sequence[DeadLetter], total: int) -> Table:
    """Dead letters, one a row; `total` includes those that are not listed."""
    more = f"the newest {len(letters):,} of {total:,}; --summary counts all" if total > len(letters) else None
    rendered = Table(caption=more)
    rendered.add_column("refused at", overflow="fold")
    rendered.add_column("topic[partition] offset", overflow="fold")
    rendered.add_column("reason", overflow="fold", ratio=1)
    rendered.add_column("value begins with", overflow="fold", ratio=1)
    for letter in letters:
        beginning = (letter.value or b"")[:SHOWN_BYTES].decode(errors="replace")
        place = f"{letter.topic}[{letter.partition}] {letter.offset}"
        rendered.add_row(*map(plain, (moment(letter.at), place, letter.reason, beginning)))
    return rendered


def reasons_table(counts: Sequence[ReasonCount]) -> Table:
    """Counts of dead letters by topic and reason."""
    rendered = Table()
    rendered.add_column("topic", overflow="fold")
    rendered.add_column("reason", overflow="fold", ratio=1)
    rendered.add_column("messages", justify="right")
    rendered.add_column("newest", overflow="fold")
    for each in counts:
        rendered.add_row(plain(each.topic), plain(each.reason), f"{each.count:,}", moment(each.newest_at))
    return rendered


def republished(result: RepublishResult) -> Group:
    """Counts of republished messages, and the reasons for those that were not delivered."""
    counts = {
        "selected": result.selected,
        "delivered": result.delivered,
        "unusable": len(result.unusable),
        "refused by Kafka": sum(result.unpublished.values()),
        "expired from dead-letters": result.gone,
        "left out, delivered before": result.delivered_before,
    }
    rows = [
        f"{each.topic}[{each.partition}] at offset {each.offset}: {each.reason}" for each in result.unusable[:NAMED]
    ]
    rows += [f"{reason}: {count:,}" for reason, count in result.unpublished.items()]
    return Group(counts_table("messages", counts), *map(plain, rows))
