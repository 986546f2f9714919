"""What `foryou replay` shows: the first feeds, and the account of the lines."""

from rich.console import Console
from rich.table import Table

from feed_worker.documents.feed import Feed
from infra.ops.replay.line_counts import Account
from infra.terminal.tables import counts_table, feed_table


class Gallery:
    """Shows the first feeds as tables."""

    def __init__(self, out: Console, shown: int) -> None:
        self._out, self._left = out, shown
        self.took_ms: list[float] = []
        """From the request of each feed to its being read; requests are made all at once."""

    def __call__(self, feed: Feed, took_ms: float) -> None:
        """Take a feed."""
        self.took_ms.append(took_ms)
        if self._left > 0:
            self._left -= 1
            self._out.print(feed_table(feed))


def account_table(account: Account) -> Table:
    """The account of the lines, and the feeds by status."""
    counts: dict[str, int | str] = {f"read from {topic}": count for topic, count in account.read.items()}
    counts |= {"read": account.read.total(), "accepted": account.accepted, "dead-lettered": account.dead_lettered}
    counts |= {f"  {reason}": count for reason, count in account.dead_letters.most_common(5)}
    counts |= {f"not taken by Kafka, {reason}": count for reason, count in account.unpublished.items()}
    counts |= {"seconds to publish": f"{account.publish_seconds:.1f}", "seconds in all": f"{account.seconds:.1f}"}
    return counts_table("account", counts | {f"feeds {status}": count for status, count in account.feeds.items()})
