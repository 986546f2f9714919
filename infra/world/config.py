"""How large a generated world is."""

from dataclasses import dataclass

from infra.ports.clock import HOUR_MS
from infra.world.topics import TOPICS


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """The size of a world; equal configurations give equal worlds.

    Args:
        seed: of everything that is drawn.
        users: accounts that read: viewers. Now and then they reply, repost and post, too.
        authors: accounts that mostly write.
        posts: posts of every kind, replies and reposts among them.
        topics: how many of `TOPICS` the world is about.
        engagements: about how many events stand in the engagements topic, impressions included; each reply, repost and
            quote comes with its own, so there are never fewer than these need.
        span_ms: the time from the first event to the last.

    Raises:
        ValueError: a size that makes no world.

    """

    seed: int = 20_260_721
    users: int = 200
    authors: int = 80
    posts: int = 2_000
    topics: int = 16
    engagements: int = 20_000
    span_ms: int = 24 * HOUR_MS

    def __post_init__(self) -> None:
        smallest = {"seed": 0, "users": 1, "authors": 1, "posts": 1, "topics": 1, "engagements": 0, "span_ms": 60_000}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise ValueError(f"a world needs {name} of at least {least}, not {getattr(self, name)}")
        if self.topics > len(TOPICS):
            raise ValueError(f"a world has at most {len(TOPICS)} topics, not {self.topics}")
