"""The table of errors: the one place that decides the reaction of a process to an error of a server or a value."""

import re
from enum import Enum
from typing import Final

import redis
from confluent_kafka import KafkaError
from redis.exceptions import (
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    ClusterError,
    RedisClusterException,
)

from infra.ports.errors import RedisRefused, RedisUnreachable, StateUnreadable


class Reaction(Enum):
    """The reaction of a process to an error."""

    WAIT = "wait"
    """Retry without limit: an outage, which the process logs once and counts."""

    SKIP = "skip"
    """Set one input or one key aside, log and count it, and continue."""

    END = "end"
    """End the process with a non-zero exit code: a retry cannot help."""

    RETRY = "retry"
    """An unknown error: retry a few times, then as END."""


KAFKA_RETRIES: Final = 10
"""Retries of an error of Kafka that is not in the table; the next such error in a row ends the process."""

KAFKA_GROUP_EVENTS: Final = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.MEMBER_ID_REQUIRED,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.UNRELEASED_INSTANCE_ID,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._NO_OFFSET,
        KafkaError._PARTITION_EOF,
    }
)
"""Ordinary events of a consumer and its group: the consumer rejoins by itself. WAIT, but no outage."""

_KAFKA_WAIT: Final = frozenset(
    {
        # the client's own
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._NODE_UPDATE,
        KafkaError._WAIT_COORD,
        KafkaError._WAIT_CACHE,
        KafkaError._IN_PROGRESS,
        KafkaError._PREV_IN_PROGRESS,
        KafkaError._ISR_INSUFF,
        KafkaError._INTR,
        KafkaError._RETRY,
        KafkaError._QUEUE_FULL,
        # a broker that starts, stops, or is overloaded; a leader or a coordinator that moves
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.PREFERRED_LEADER_NOT_AVAILABLE,
        KafkaError.ELIGIBLE_LEADERS_NOT_AVAILABLE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.STALE_CTRL_EPOCH,
        KafkaError.STALE_BROKER_EPOCH,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError.REASSIGNMENT_IN_PROGRESS,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.FETCH_SESSION_ID_NOT_FOUND,
        KafkaError.INVALID_FETCH_SESSION_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
        KafkaError.CONCURRENT_TRANSACTIONS,
        # too few replicas; a disk that is full or broken: librdkafka and the broker try again
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.KAFKA_STORAGE_ERROR,
        # a worker of an earlier version, or too many workers: the member joins once these have left
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
        KafkaError.GROUP_MAX_SIZE_REACHED,
    }
)

_KAFKA_SKIP: Final = frozenset(
    {
        # reading: the messages of a batch, or those that were removed
        KafkaError._BAD_MSG,
        KafkaError._BAD_COMPRESSION,
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError._LOG_TRUNCATION,
        KafkaError.OFFSET_OUT_OF_RANGE,
        # writing: one record
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        # committing: the next commit has a later offset
        KafkaError.OFFSET_METADATA_TOO_LARGE,
        KafkaError.INVALID_COMMIT_OFFSET_SIZE,
    }
)

_KAFKA_END: Final = frozenset(
    {
        # permissions and passwords
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.SECURITY_DISABLED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.DELEGATION_TOKEN_AUTHORIZATION_FAILED,
        KafkaError.DELEGATION_TOKEN_EXPIRED,
        # a setting, a policy, or a version of the broker
        KafkaError._INVALID_ARG,
        KafkaError._NOT_IMPLEMENTED,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError.INVALID_REQUIRED_ACKS,
        KafkaError.INVALID_GROUP_ID,
        KafkaError.INVALID_SESSION_TIMEOUT,
        KafkaError.INVALID_CONFIG,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
        # the client cannot continue; another process has its name
        KafkaError._FATAL,
        KafkaError._FENCED,
        KafkaError._GAPLESS_GUARANTEE,
        KafkaError._CRIT_SYS_RESOURCE,
        KafkaError.FENCED_INSTANCE_ID,
        KafkaError.PRODUCER_FENCED,
    }
)


def kafka_reaction(error: KafkaError) -> Reaction | None:
    """Return the reaction to an error that a consumer, a producer or a commit reports.

    The table does not use `KafkaError.retriable()`: librdkafka sets it for transactions only. librdkafka itself retries
    nearly all errors that it can; an error of WAIT that is reported needs a new attempt by the process.

    Returns:
        None: the error is not in the table; the caller retries at most KAFKA_RETRIES times, and then ends.

    """
    code = error.code()
    if error.fatal() or code in _KAFKA_END:
        return Reaction.END
    if code in _KAFKA_SKIP:
        return Reaction.SKIP
    return Reaction.WAIT if code in _KAFKA_WAIT or code in KAFKA_GROUP_EVENTS else None


REDIS_CODES: Final[dict[str, Reaction]] = {
    "READONLY": Reaction.WAIT,  # a primary became a replica: a new connection may find the new primary
    "OOM": Reaction.WAIT,
    "CLUSTERDOWN": Reaction.WAIT,
    "LOADING": Reaction.WAIT,
    "BUSY": Reaction.WAIT,  # a script of another client
    "MISCONF": Reaction.WAIT,  # its disk is full
    "TRYAGAIN": Reaction.WAIT,  # a slot migrates
    "ASK": Reaction.WAIT,
    "MOVED": Reaction.WAIT,
    "NOREPLICAS": Reaction.WAIT,
    "MASTERDOWN": Reaction.WAIT,
    "NOAUTH": Reaction.END,
    "WRONGPASS": Reaction.END,
    "NOPERM": Reaction.END,
    "DENIED": Reaction.END,  # protected mode
    "CROSSSLOT": Reaction.END,
    "WRONGTYPE": Reaction.SKIP,
}
"""The reaction to each code of an error reply of Redis."""

REDIS_TEXTS: Final[dict[str, Reaction]] = {
    "unknown command": Reaction.END,
    "max number of clients reached": Reaction.WAIT,
    "DB index is out of range": Reaction.END,
    "invalid DB index": Reaction.END,
}
"""The reaction to error replies of the code ERR, by the start of their text."""

_CODES_OF_TYPES: Final[dict[type[Exception], str]] = {
    redis.ReadOnlyError: "READONLY",
    redis.OutOfMemoryError: "OOM",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.BusyLoadingError: "LOADING",
    redis.exceptions.TryAgainError: "TRYAGAIN",
    redis.exceptions.AskError: "ASK",  # MOVED is a subclass
    redis.exceptions.MasterDownError: "MASTERDOWN",
    redis.AuthenticationError: "NOAUTH",
    AuthorizationError: "NOPERM",
    redis.exceptions.NoPermissionError: "NOPERM",
    AuthenticationWrongNumberOfArgsError: "NOAUTH",
    redis.exceptions.ClusterCrossSlotError: "CROSSSLOT",
}
"""The code of each class for which redis-py removes it from the text."""

_OF_A_PIPELINE: Final = "of pipeline caused error: "
"""The end of the text that redis-py puts before an error within a pipeline."""

_CODE: Final = re.compile(r"-?([A-Z]+)\b")


def redis_reaction(error: BaseException) -> Reaction:
    """The reaction to an error of a command to Redis, or of a value that Redis stores.

    The errors of redis-py, of `infra.ports.redis` and StateUnreadable are known; any other error gives RETRY.
    """
    if isinstance(error, StateUnreadable):
        return Reaction.SKIP
    if isinstance(error, RedisRefused):
        return Reaction.END
    if isinstance(error, RedisUnreachable):
        return Reaction.WAIT
    for type_, code in _CODES_OF_TYPES.items():
        if isinstance(error, type_):
            return REDIS_CODES[code]
    text = str(error).rpartition(_OF_A_PIPELINE)[2]
    if isinstance(error, redis.ResponseError):
        return _reaction_to_reply(text)
    if isinstance(error, RedisClusterException) and "Cluster mode is not enabled" in text:
        return Reaction.END
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | RedisClusterException | ClusterError):
        return Reaction.WAIT
    return Reaction.RETRY


def _reaction_to_reply(text: str) -> Reaction:
    """The reaction to a reply by its code: the first word, or a word within the reply of a script of Redis 6."""
    for start, reaction in REDIS_TEXTS.items():
        if text.startswith(start):
            return reaction
    words = _CODE.findall(text) if "user_script" in text else _CODE.findall(text.split(" ", 1)[0])
    return next((REDIS_CODES[word] for word in words if word in REDIS_CODES), Reaction.RETRY)
