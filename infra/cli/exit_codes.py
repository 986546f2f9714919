"""Which errors are a user's to mend: they are told in one line, everything else shows where the program went wrong."""

import redis
from confluent_kafka import KafkaException

from feed_worker.client import FeedTimeout, NoFeed, Undelivered
from infra.cli.train import Diverged
from infra.ops.explain import NotExplained
from infra.ops.replay.command import Stopped
from infra.ops.replay.log_reader import LogError
from infra.ops.unreadable import StateUnreadable
from infra.ports.kafka import BrokerUnreachable, DeliveryFailed, TopicMissing
from infra.ports.kafka_admin import TopicError
from infra.ports.redis import RedisUnreachable
from infra.ports.settings import SettingsError
from infra.stack.embedded import EmbeddedError
from infra.stack.processes import ChildDied
from infra.stack.stack import NotReady
from phoenix.training.model_card import CheckpointError
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
