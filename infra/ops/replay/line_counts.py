"""What became of the lines of a replay."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Account:
    """What became of the lines: `read` = `accepted` + `dead_lettered` + `unpublished`."""

    read: Counter[str] = field(default_factory=Counter)
    """Lines that are not blank, by topic."""
    broken: int = 0
    """Those of them that are not JSON or have no time; they are published too, for the flow to refuse."""
    delivered: int = 0
    unpublished: Counter[str] = field(default_factory=Counter)
    """Messages that Kafka itself would not take, by reason."""
    dead_letters: Counter[str] = field(default_factory=Counter)
    """By reason."""
    publish_seconds: float = 0.0
    seconds: float = 0.0
    newest_at: int = 0
    active: Counter[bytes] = field(default_factory=Counter)
    """Lines by the user who acted."""
    feeds: Counter[str] = field(default_factory=Counter)
    """By status; `timeout` where no answer came."""

    @property
    def accepted(self) -> int:
        """How many lines the flows took."""
        return self.delivered - self.dead_lettered

    @property
    def dead_lettered(self) -> int:
        """How many lines the flows refused."""
        return self.dead_letters.total()

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "read": self.read.total(),
            "read_by_topic": dict(self.read),
            "accepted": self.accepted,
            "dead_lettered": self.dead_lettered,
            "dead_letters": dict(self.dead_letters),
            "unpublished": self.unpublished.total(),
            "broken": self.broken,
            "newest_at": self.newest_at,
            "publish_seconds": round(self.publish_seconds, 3),
            "seconds": round(self.seconds, 3),
            "feeds": dict(self.feeds),
        }
