"""The feeds and the counts of a replay."""

from rich.console import Console
from rich.table import Table

from feed_worker.documents.feed import Feed
from infra.ops.replay.line_counts import LineCounts
from infra.terminal.feeds import feed_table
from infra.terminal.tables import counts_table


class FeedPrinter:
    """Prints the first `shown` feeds as tables and records the time of every feed."""

    def __init__(self, out: Console, shown: int) -> None:
        self._out, self._left = out, shown
        self.took_ms: list[float] = []
        """Milliseconds from the request of each feed to its read; the requests are sent together."""

    def __call__(self, feed: Feed, took_ms: float) -> None:
        """Receive a feed."""
        self.took_ms.append(took_ms)
        if self._left > 0:
            self._left -= 1
            self._out.print(feed_table(feed))


def line_counts_table(counts: LineCounts) -> Table:
    """The counts of lines, and the feeds by status."""
    rows: dict[str, int | str] = {f"read from {topic}": count for topic, count in counts.read.items()}
    rows |= {"read": counts.read.total(), "accepted": counts.accepted, "dead-lettered": counts.dead_lettered}
    rows |= {f"  {reason}": count for reason, count in counts.dead_letters.most_common(5)}
    rows |= {f"refused by Kafka, {reason}": count for reason, count in counts.unpublished.items()}
    rows |= {"seconds to publish": f"{counts.publish_seconds:.1f}", "seconds in total": f"{counts.seconds:.1f}"}
    return counts_table("lines", rows | {f"feeds {status}": count for status, count in counts.feeds.items()})
