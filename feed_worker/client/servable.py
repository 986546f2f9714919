"""Wait until published events can be served: the flows have finished them, and the workers have read the result."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from feed_worker.client.errors import NotServable
from feed_worker.serving.worker_registry import ready_workers
from infra.ports.kafka_admin import Offsets, admin, ends_of, lag
from infra.ports.kafka_config import FLOW_GROUPS
from infra.ports.redis import REDIS_ERRORS, Client, redis_unreachable
from infra.ports.settings import Settings

POLL_S: Final = 0.1
_POSTS: Final = "thunder-posts"


def wait_servable(
    settings: Settings, client: Client, delivered: Mapping[tuple[str, int], int], timeout_s: float
) -> None:
    """Wait until delivered events can be served.

    1. `flows.posts` and `flows.engagements` have committed the events. A flow commits only what it has written: users
    are then in Redis, which a worker reads for each request, and posts in `thunder-posts`.
    2. For posts, each ready worker has applied `thunder-posts` up to its present end.

    Args:
        settings: addresses.
        client: of Redis.
        delivered: for each topic and partition the offset after the last event.
        timeout_s: of the whole wait.

    Raises:
        NotServable: the time is over; the text names the flow or the worker that is behind.
        RedisUnreachable, BrokerUnreachable: a server does not answer.

    """
    deadline, kafka = time.monotonic() + timeout_s, admin(settings)

    def behind() -> str | None:
        for flow, topics in FLOW_GROUPS.items():
            ends = {part: end for part, end in delivered.items() if part[0] in topics}
            if left := lag(kafka, settings, flow, ends):
                return f"{flow} is {left:,} messages behind"
        return None

    _wait_while(behind, deadline)
    if any(topic == "posts" for topic, _ in delivered):
        ends = ends_of(settings, [_POSTS])
        _wait_while(lambda: _worker_behind(_entries(settings, client), ends), deadline)


def _wait_while(behind: Callable[[], str | None], deadline: float) -> None:
    while reason := behind():
        if time.monotonic() >= deadline:
            raise NotServable(f"published events cannot be served in time: {reason}; see `foryou doctor`")
        time.sleep(POLL_S)


def _entries(settings: Settings, client: Client) -> list[dict[str, Any]]:
    try:
        return ready_workers(client)
    except REDIS_ERRORS as error:
        raise redis_unreachable(settings, error) from None


def _worker_behind(entries: Sequence[Mapping[str, Any]], ends: Offsets) -> str | None:
    for entry in entries:
        positions = entry.get("positions", {})
        left = sum(max(0, end - positions.get(f"{topic}-{part}", 0)) for (topic, part), end in ends.items())
        if left:
            return f"worker {entry['pid']} is {left:,} posts behind"
    return None if entries else "no worker is ready"
