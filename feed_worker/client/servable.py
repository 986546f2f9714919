"""Wait until published events can be served: the flows have finished them, and the workers have read the result."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from feed_worker.client.errors import NotServable
from feed_worker.serving.worker_registry import ready_workers
from infra.ports.kafka_admin import CommittedOffsets, Offsets, ends_of
from infra.ports.kafka_config import FLOW_GROUPS, group
from infra.ports.redis import REDIS_ERRORS, Client, redis_unreachable
from infra.ports.settings import Settings

POLL_S: Final = 0.1
_DERIVED: Final = {"posts": "thunder-posts", "social-graph": "accounts"}
"""The derived topic that workers must have read, by topic of the events."""


def wait_servable(
    settings: Settings, client: Client, delivered: Mapping[tuple[str, int], int], timeout_s: float
) -> None:
    """Wait until delivered events can be served.

    1. `flows.posts` and `flows.engagements` have committed the events. A flow commits only what it has written: users
    are then in Redis, which a worker reads for each request, and posts in `thunder-posts`.
    2. Each ready worker has applied the derived topic up to its present end: `thunder-posts` for posts, and `accounts`
    for the social graph, if there are any.

    Args:
        settings: addresses.
        client: of Redis.
        delivered: for each topic and partition the offset after the last event.
        timeout_s: of the whole wait.

    Raises:
        NotServable: the time is over; the text names the flow or the worker that is behind.
        RedisUnreachable, BrokerUnreachable: a server does not answer.

    """
    deadline = time.monotonic() + timeout_s
    for flow, inputs in FLOW_GROUPS.items():
        if ends := {part: end for part, end in delivered.items() if part[0] in inputs}:
            with CommittedOffsets(settings, group(settings, flow)) as committed:
                _wait_while(partial(_flow_behind, flow, committed, ends), deadline)
    published = {topic for topic, _ in delivered}
    topics = [derived for topic, derived in _DERIVED.items() if topic in published]
    ends = ends_of(settings, topics) if topics else {}
    if "posts" in published or any(ends.values()):
        _wait_while(lambda: _worker_behind(_entries(settings, client), ends), deadline)


def _flow_behind(flow: str, committed: CommittedOffsets, ends: Offsets) -> str | None:
    left = committed.lag(ends)
    return f"{flow} is {left:,} messages behind" if left else None


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
        behind = Counter[str]()
        for (topic, part), end in ends.items():
            behind[topic] += max(0, end - positions.get(f"{topic}-{part}", 0))
        if left := behind.total():
            topics = ", ".join(topic for topic in behind if behind[topic])
            return f"worker {entry['pid']} is {left:,} records of {topics} behind"
    return None if entries else "no worker is ready"
