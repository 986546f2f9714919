"""A reader's view of Redis while workers write: what is announced, and whether a feed gets worse."""

import re
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Self, cast

import redis

from infra.ports.redis import subscription
from tests.e2e.evidence import Written, answered
from thunder_ingest.events import unpack_feed_served
from thunder_ingest.events.redis_keys import feed_key, ready_channel

LOOKS_S = 0.01
AWAY = (redis.ConnectionError, redis.TimeoutError)
WITH_ITEMS, WITHOUT_ITEMS = ("ok", "degraded"), ("expired", "failed", "")


class Head(NamedTuple):
    """How a feed begins; nothing, where there is none."""

    at: int
    status: str


NONE = Head(0, "")
_HEAD = re.compile(rb'^{"at":(\d+),.*?"status":"(\w+)"')
_HEAD_BYTES = 250


def _head(document: bytes) -> Head:
    found = _HEAD.match(document)
    return Head(int(found[1]), found[2].decode()) if found else NONE


class Watcher:
    """Watches the feeds of users until it is left; a context manager.

    Attributes:
        announced: request ids by the user whose channel told.
        excused: request ids that were answered when nobody could listen, since Redis had only just come back.
        spoiled: feeds that were replaced by an older one or by none, in words.

    """

    def __init__(self, url: str, users: list[int]) -> None:
        self._url, self._users = url, [str(user) for user in users]
        self._done = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._listen, self._look)]
        self.announced: set[tuple[str, str]] = set()
        self.excused: set[str] = set()
        self.spoiled: list[str] = []
        self._known: dict[str, Head] = {}
        self._listens = threading.Event()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        assert self._listens.wait(60)
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _listen(self) -> None:
        channel = ready_channel("*")
        while not self._done.is_set():
            with redis.Redis.from_url(self._url) as client, subscription(client) as heard:
                try:
                    heard.psubscribe(channel)
                    while not self._done.is_set():
                        if message := heard.get_message(timeout=0.2):
                            self._note(client, message)
                except AWAY:
                    time.sleep(0.05)

    def _note(self, client: redis.Redis, message: dict[str, Any]) -> None:
        if message["type"] == "psubscribe":  # each time that the connection is made anew: what came before is lost
            self.excused |= answered(client).keys()
            self._listens.set()
        elif message["type"] == "pmessage":
            user = message["channel"].decode().partition(":")[2].strip("{}")
            self.announced.add((user, message["data"].decode()))

    def _look(self) -> None:
        with redis.Redis.from_url(self._url) as client:
            while not self._done.wait(LOOKS_S):
                try:
                    with client.pipeline(transaction=False) as pipe:
                        for user in self._users:
                            pipe.getrange(feed_key(user), 0, _HEAD_BYTES)
                        heads = cast(list[bytes], pipe.execute())
                except AWAY:
                    continue
                for user, head in zip(self._users, heads, strict=True):
                    self._compare(user, head)

    def _compare(self, user: str, head: bytes) -> None:
        before, now = self._known.get(user, NONE), _head(head)
        if now.at < before.at or (before.status in WITH_ITEMS and now.status in WITHOUT_ITEMS):
            self.spoiled.append(
                f"the feed of {user} was {before.status} of {before.at}, and is {now.status} of {now.at}"
            )
        self._known[user] = now

    def unannounced(self, found: Written) -> Iterator[str]:
        """Requests that were answered and not announced, though somebody listened."""
        for request, record in found.answered.items():
            user = unpack_feed_served(record).user_form
            if request not in self.excused and (user, request) not in self.announced:
                yield f"{request} of {user} was answered and not announced"
