"""Which errors are a user's to mend: they are told in one line, everything else shows where the program went wrong."""

import redis
from confluent_kafka import KafkaException

from feed_worker.client import FeedTimeout, NoFeed, Undelivered
from infra.embedded import EmbeddedError
from infra.explain import NotExplained
from infra.kafka import BrokerUnreachable, DeliveryFailed, TopicMissing
from infra.kafka_admin import TopicError
from infra.processes import ChildDied
from infra.redis import RedisUnreachable
from infra.replay import Stopped
from infra.replay_log import LogError
from infra.settings import SettingsError
from infra.stack import NotReady
from infra.train import Diverged
from infra.unreadable import StateUnreadable
from phoenix.cards import CheckpointError
from thunder_ingest.events import Refused

IN_THE_WAY = (
    BrokerUnreachable,
    ChildDied,
    DeliveryFailed,
    Diverged,
    EmbeddedError,
    FeedTimeout,
    KafkaException,
    NoFeed,
    NotExplained,
    NotReady,
    RedisUnreachable,
    StateUnreadable,
    Stopped,
    TopicError,
    TopicMissing,
    Undelivered,
    redis.RedisError,
)
WRONG = (CheckpointError, LogError, Refused, SettingsError)


def exit_code(error: Exception) -> int | None:
    """1 or 2 for a user's mistake, None for ours."""
    if isinstance(error, WRONG):
        return 2
    return 1 if isinstance(error, IN_THE_WAY) else None
