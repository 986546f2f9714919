"""The table of errors: the one place that decides the reaction of a process to an error of a server or a value."""

import re
from enum import Enum
from typing import Final

import redis
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
