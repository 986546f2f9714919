"""The errors that a client raises besides `Refused`, `RedisUnreachable`, `BrokerUnreachable` and `TopicMissing`."""

from collections.abc import Sequence

from infra.ports.errors import ForYouError
from thunder_ingest.events import FeedStatus


class FeedTimeout(ForYouError, TimeoutError):
    """No answer to a feed request arrived in time."""


class NoFeed(ForYouError, RuntimeError):
    """A request ended without a feed; an earlier feed of the user, if there is one, is still there.

    Attributes:
        status: `failed`, or `expired` if a worker found the request past its deadline.
        degradations: the reasons, as far as they are known.

    """

    def __init__(self, user: str, request_id: str, status: FeedStatus, degradations: Sequence[str] = ()) -> None:
        self.status, self.degradations = status, list(degradations)
        reason = "; ".join(degradations) or (
            "it was past its deadline: the workers are behind, or the clock of this machine is slow"
            if status == "expired"
            else "the worker's log has the reason"
        )
        super().__init__(f"request {request_id} of user {user} {status}: {reason}")


class NotServable(ForYouError, TimeoutError):
    """Published events could not be served in time; they may still be, a moment later."""


class Undelivered(ForYouError, RuntimeError):
    """Kafka did not take every message."""
