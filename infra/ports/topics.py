"""The topics, all of them: key, retention and form, in one place. Imports nothing else of the house."""

from dataclasses import dataclass
from typing import Final

from infra.ports.clock import DAY_MS


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is created: `config` are Kafka's own topic settings."""

    name: str
    key: str
    content: str
    config: dict[str, str]

    @property
    def policy(self) -> str:
        """The retention in words."""
        if self.config["cleanup.policy"] == "compact":
            return "compact"
        retention_ms = int(self.config["retention.ms"])
        if retention_ms < 0:
            return "kept for ever"
        return f"{retention_ms // DAY_MS} d" if retention_ms >= DAY_MS else f"{retention_ms // 3_600_000} h"


def _deleted_after(ms: int, **config: str) -> dict[str, str]:
    # retention counts from arrival, never from event time: a replayed old log must not vanish while it is read
    return {"cleanup.policy": "delete", "retention.ms": str(ms), "message.timestamp.type": "LogAppendTime"} | config


# a tombstone has to outlive the log that it answers, or a replay of that log would bring the post back
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
        Topic("post-counts", "post id", "running totals per action", _COMPACTED),
        Topic(
            "feeds-served", "user id", "what was served, in which order, with which scores", _deleted_after(7 * DAY_MS)
        ),
        Topic("training-examples", "user id", "served candidate, history, labels", _deleted_after(7 * DAY_MS)),
        Topic("models", "model name", "version and checkpoint now current", _COMPACTED),
        Topic(
            "dead-letters",
            "source topic",
            "refused messages, whole, and why",
            # a refused message may itself be as large as the broker takes
            _deleted_after(30 * DAY_MS, **{"max.message.bytes": "4194304"}),
        ),
    )
}
INPUTS: Final = ("posts", "engagements", "social-graph", "feed-requests")
"""What apps write; everything else is derived."""
