"""The list of topics: key, content and retention."""

from dataclasses import dataclass
from typing import Final

from infra.ports.clock import DAY_MS


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as `foryou topics --create` creates it; `config` has Kafka's topic settings."""

    name: str
    key: str
    content: str
    config: dict[str, str]

    @property
    def policy(self) -> str:
        """The retention as text."""
        if self.config["cleanup.policy"] == "compact":
            return "compact"
        retention_ms = int(self.config["retention.ms"])
        if retention_ms < 0:
            return "kept forever"
        return f"{retention_ms // DAY_MS} d" if retention_ms >= DAY_MS else f"{retention_ms // 3_600_000} h"


def _deleted_after(ms: int, **config: str) -> dict[str, str]:
    # retention counts from the arrival: by event time Kafka would delete an old log during its replay
    return {"cleanup.policy": "delete", "retention.ms": str(ms), "message.timestamp.type": "LogAppendTime"} | config


# a tombstone must outlive the log of its post: else a replay of that log would restore the post
_COMPACTED = {"cleanup.policy": "compact", "delete.retention.ms": str(7 * DAY_MS)}

TOPICS: Final = {
    topic.name: topic
    for topic in (
        Topic("posts", "author id", "post_created, post_deleted, post_labeled (JSON)", _deleted_after(7 * DAY_MS)),
        Topic("engagements", "user id", "engagement, impression (JSON)", _deleted_after(30 * DAY_MS)),
        Topic("social-graph", "user id", "follow, block, mute … and their undoing (JSON)", _deleted_after(-1)),
        Topic("feed-requests", "user id", "feed_request (JSON)", _deleted_after(3_600_000)),
        Topic("thunder-posts", "post id", "the post as served; tombstone", _COMPACTED),
        Topic("post-embeddings", "post id", "model version, unit vector; tombstone", _COMPACTED),
        Topic("post-counts", "post id", "running totals per action; tombstone", _COMPACTED),
        Topic("post-counts-changelog", "shard, run, number", "voices: who did what to which post", _COMPACTED),
        Topic("feeds-served", "user id", "items served, in order, with their scores", _deleted_after(7 * DAY_MS)),
        Topic("training-examples", "user id", "served candidate, history, labels", _deleted_after(7 * DAY_MS)),
        Topic("models", "model name", "version and checkpoint of the current model", _COMPACTED),
        Topic(
            "dead-letters",
            "source topic",
            "refused messages, unchanged, with the reason",
            # a refused message may be as large as the broker accepts
            _deleted_after(30 * DAY_MS, **{"max.message.bytes": "4194304"}),
        ),
    )
}
INPUTS: Final = ("posts", "engagements", "social-graph", "feed-requests")
"""The topics that apps write; all others are derived."""
