"""A watcher of Redis while workers write: the announced requests, and the feeds that an older or empty one replaced."""

import re
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Self, cast

import redis

from infra.ports.redis import subscription
from tests.e2e.invariants import Records, answered
from thunder_ingest.events import unpack_feed_served
from thunder_ingest.events.redis_keys import feed_key, ready_channel

POLL_S = 0.01
UNREACHABLE = (redis.ConnectionError, redis.TimeoutError)
WITH_ITEMS, NO_FEED = ("ok", "degraded"), ("expired", "failed", "")


class Head(NamedTuple):
    """Arrival and offset of the request, and status of a feed; zeros and "" if there is no document."""

    order: tuple[int, int]
    status: str


NONE = Head((0, 0), "")
_STATUS = re.compile(rb'^{"at":\d+,.*?"status":"(\w+)"')
_ORDER = re.compile(rb'"arrived_at":(\d+),"offset":(\d+)}$')
_HEAD_BYTES, _TAIL_BYTES = 250, 80
# one command instead of two a user, since the workers that are tested need the processor
_ENDS = """
local ends = {}
for i, key in ipairs(KEYS) do
  ends[2 * i - 1] = redis.call('GETRANGE', key, 0, ARGV[1])
  ends[2 * i] = redis.call('GETRANGE', key, -ARGV[2], -1)
end
return ends
"""


def _head(begin: bytes, end: bytes) -> Head:
    status, order = _STATUS.match(begin), _ORDER.search(end)
    return Head((int(order[1]), int(order[2])), status[1].decode()) if status and order else NONE


class FeedWatcher:
    """Watches the feeds of users in two threads; a context manager.

    Attributes:
        announced: pairs of user and request id from the ready channels.
        excused: request ids that were answered before a subscription. Their announcements may be lost.
        regressions: feeds that an older feed or none replaced, in words.

    """

    def __init__(self, url: str, users: list[int]) -> None:
        self._url, self._users = url, [str(user) for user in users]
        self._done = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._subscribe, self._poll)]
        self.announced: set[tuple[str, str]] = set()
        self.excused: set[str] = set()
        self.regressions: list[str] = []
        self._last_heads: dict[str, Head] = {}
        self._is_subscribed = threading.Event()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        assert self._is_subscribed.wait(60)
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _subscribe(self) -> None:
        channel = ready_channel("*")
        while not self._done.is_set():
            with redis.Redis.from_url(self._url) as client, subscription(client) as subscriber:
                try:
                    subscriber.psubscribe(channel)
                    while not self._done.is_set():
                        if message := subscriber.get_message(timeout=0.2):
                            self._note(client, message)
                except UNREACHABLE:
                    time.sleep(0.05)

    def _note(self, client: redis.Redis, message: dict[str, Any]) -> None:
        if message["type"] == "psubscribe":  # after each reconnect: earlier announcements are lost
            self.excused |= answered(client).keys()
            self._is_subscribed.set()
        elif message["type"] == "pmessage":
            user = message["channel"].decode().partition(":")[2].strip("{}")
            self.announced.add((user, message["data"].decode()))

    def _poll(self) -> None:
        keys, before = [feed_key(user) for user in self._users], list[bytes]()
        with redis.Redis.from_url(self._url) as client:
            read = client.register_script(_ENDS)
            while not self._done.wait(POLL_S):
                try:
                    ends = cast(list[bytes], read(keys, [_HEAD_BYTES, _TAIL_BYTES]))
                except UNREACHABLE:
                    continue
                if ends != before:
                    before = ends
                    for user, begin, end in zip(self._users, ends[::2], ends[1::2], strict=True):
                        self._compare(user, _head(begin, end))

    def _compare(self, user: str, now: Head) -> None:
        before = self._last_heads.get(user, NONE)
        is_older = before.status not in NO_FEED and now.order < before.order
        if is_older or (before.status in WITH_ITEMS and now.status in NO_FEED):
            self.regressions.append(f"the feed of {user} was {before}, and is {now}")
        self._last_heads[user] = now

    def unannounced(self, records: Records) -> Iterator[str]:
        """Requests that were answered during a subscription, but not announced."""
        for request, record in records.answered.items():
            user = unpack_feed_served(record).user_form
            if request not in self.excused and (user, request) not in self.announced:
                yield f"{request} of {user} was answered and not announced"
