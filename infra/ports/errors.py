"""The root of the exceptions that a user can meet, and the exceptions of the ports; each text is one line."""

from typing import ClassVar


class ForYouError(Exception):
    """A server or the data is in the way; the text is one line with the place, the reason and the remedy.

    Attributes:
        exit_code: exit code of a command that ends with this error.

    """

    exit_code: ClassVar[int] = 1


class UsageError(ForYouError):
    """The command, a setting or an input is wrong."""

    exit_code: ClassVar[int] = 2


class BrokerUnreachable(ForYouError, ConnectionError):
    """No Kafka broker answers at the address of the settings."""


class BrokerRefused(ForYouError, RuntimeError):
    """Kafka refuses the process for good, for example without permission; a retry cannot help."""


class TopicMissing(ForYouError, LookupError):
    """A required topic does not exist."""


class DeliveryFailed(ForYouError, RuntimeError):
    """Kafka refused a message for good."""


class MessageTooLarge(DeliveryFailed):
    """A message is larger than any broker accepts."""


class OtherCluster(ForYouError, RuntimeError):
    """A directory belongs to another Kafka cluster; the text has both ids and the remedy."""


class RedisUnreachable(ForYouError, ConnectionError):
    """No Redis answers at the address of the settings, or it refuses the connection."""


class RedisRefused(RedisUnreachable):
    """Redis refuses commands for good, for example because of a wrong password: a retry cannot help."""


class StopRequested(ForYouError, RuntimeError):
    """The process received a stop signal while it waited for a server."""


class StateUnreadable(ForYouError, RuntimeError):
    """Stored state cannot be read; the text names the state, its place and the reason."""


class StateMissing(StateUnreadable):
    """Stored state was lost: it must not be taken for empty."""
