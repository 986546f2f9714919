"""Counts of the lines of a replay."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class LineCounts:
    """Counts of lines and feeds: `read` = `accepted` + `dead_lettered` + `unpublished`."""

    read: Counter[str] = field(default_factory=Counter)
    """Lines by topic, without blank ones."""
    broken: int = 0
    """Lines that are not JSON or have no time. They are published too; the flow refuses them."""
    delivered: int = 0
    unpublished: Counter[str] = field(default_factory=Counter)
    """Messages that Kafka refused, by reason."""
    dead_letters: Counter[str] = field(default_factory=Counter)
    """Dead letters by reason."""
    publish_seconds: float = 0.0
    seconds: float = 0.0
    newest_at: int = 0
    """Newest event time of the bulk of the log, epoch ms: the time of the feed requests."""
    outliers: int = 0
    """Lines whose time is far after the rest of the log."""
    active: Counter[bytes] = field(default_factory=Counter)
    """Lines of engagements and social-graph by user."""
    feeds: Counter[str] = field(default_factory=Counter)
    """Feeds by status; `timeout` for a request without an answer."""

    @property
    def accepted(self) -> int:
        """Number of lines that the flows accepted."""
        return self.delivered - self.dead_lettered

    @property
    def dead_lettered(self) -> int:
        """Number of lines that the flows refused."""
        return self.dead_letters.total()

    def as_json(self) -> dict[str, Any]:
        """The document for `--json`."""
        return {
            "read": self.read.total(),
            "read_by_topic": dict(self.read),
            "accepted": self.accepted,
            "dead_lettered": self.dead_lettered,
            "dead_letters": dict(self.dead_letters),
            "unpublished": self.unpublished.total(),
            "broken": self.broken,
            "newest_at": self.newest_at,
            "outliers": self.outliers,
            "publish_seconds": round(self.publish_seconds, 3),
            "seconds": round(self.seconds, 3),
            "feeds": dict(self.feeds),
        }
