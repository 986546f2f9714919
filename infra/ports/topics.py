"""The list of topics: key, content and retention."""

from dataclasses import dataclass
from typing import Final

from infra.ports.clock import DAY_MS, HOUR_MS, MINUTE_MS


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as `foryou topics --create` creates it; `config` has Kafka's topic settings but `min.insync.replicas`."""

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
        return f"{retention_ms // DAY_MS} d" if retention_ms >= DAY_MS else f"{retention_ms // HOUR_MS} h"

    def config_for(self, replication_factor: int) -> dict[str, str]:
        """Return the settings for a replication factor: an acknowledged message is on two replicas at least of three.

        One replica fewer than all must confirm a message, so that writing goes on while one broker is away.
        """
        return self.config | {"min.insync.replicas": str(max(1, replication_factor - 1))}


MAX_MESSAGE_BYTES: Final = 3 * 2**20
"""The largest message of an app: clients, flows, workers and Kafka have this one limit.

A feed request with the 10,000 `seen_ids` that it may have, of 255 bytes each, has 2.6 MB.
"""

_WITH_INPUT = {"max.message.bytes": str(MAX_MESSAGE_BYTES + 2**20)}
"""Kafka counts the key and the frame of a batch, too; a dead letter holds a message with the reason."""


def _deleted_after(ms: int) -> dict[str, str]:
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(ms),
        # Kafka deletes whole segments, and never the active one: it must end long before the retention does
        "segment.ms": str(DAY_MS if ms < 0 else max(10 * MINUTE_MS, min(DAY_MS, ms // 10))),
        # retention counts from the arrival: by event time Kafka would delete an old log during its replay
        "message.timestamp.type": "LogAppendTime",
    }


_COMPACTED = {
    "cleanup.policy": "compact",
    # a tombstone must outlive the log of its post: else a replay of that log would restore the post
    "delete.retention.ms": str(7 * DAY_MS),
    # Kafka compacts no active segment: a worker would read it whole at its start, and a deleted text would stay in it
    "segment.ms": str(HOUR_MS),
    "max.compaction.lag.ms": str(HOUR_MS),
}

TOPICS: Final = {
    topic.name: topic
    for topic in (
        Topic(
            "posts",
            "author id",
            "post_created, post_deleted, post_labeled (JSON)",
            _deleted_after(7 * DAY_MS) | _WITH_INPUT,
        ),
        Topic("engagements", "user id", "engagement, impression (JSON)", _deleted_after(30 * DAY_MS) | _WITH_INPUT),
        Topic(
            "social-graph",
            "user id",
            "follow, block, mute … and their undoing, account (JSON)",
            _deleted_after(-1) | _WITH_INPUT,
        ),
        Topic("feed-requests", "user id", "feed_request (JSON)", _deleted_after(HOUR_MS) | _WITH_INPUT),
        Topic("thunder-posts", "post id", "the post as served; tombstone", _COMPACTED),
        Topic("post-embeddings", "post id", "model version, unit vector; tombstone", _COMPACTED),
        Topic("post-counts", "post id", "running totals per action; tombstone", _COMPACTED),
        Topic("post-counts-changelog", "shard, run, number", "voices: who did what to which post", _COMPACTED),
        Topic("accounts", "user id", "the status of an account", _COMPACTED),
        Topic("feeds-served", "user id", "items served, in order, with their scores", _deleted_after(7 * DAY_MS)),
        Topic("training-examples", "user id", "served candidate, history, labels", _deleted_after(7 * DAY_MS)),
        Topic("models", "model name", "version and checkpoint of the current model", _COMPACTED),
        Topic(
            "dead-letters",
            "source topic",
            "refused messages, with the reason",
            _deleted_after(30 * DAY_MS) | _WITH_INPUT,
        ),
    )
}
INPUTS: Final = ("posts", "engagements", "social-graph", "feed-requests")
"""The topics that apps write; all others are derived."""


def is_compacted(topic: str) -> bool:
    """True for a topic that keeps the newest record of each key."""
    return topic in TOPICS and TOPICS[topic].config["cleanup.policy"] == "compact"
