"""The size of a generated world."""

from dataclasses import dataclass

from infra.ports.clock import HOUR_MS
from infra.world.topics import TOPICS


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """The size of a world; equal configurations give equal worlds.

    Args:
        seed: seed of all random draws.
        users: number of viewers: accounts that mostly read. They also reply, repost and post now and then.
        authors: number of accounts that mostly write.
        posts: number of posts of all kinds, including replies and reposts.
        topics: number of topics, the first of `TOPICS`.
        engagements: approximate number of engagements and impressions. Each reply, repost and quote has an impression
            and an engagement, so the number is never below twice theirs.
        span_ms: time from the first event to the last, in ms.

    Raises:
        ValueError: a size is out of range.

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
