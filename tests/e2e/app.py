"""An app that requests feeds: valid, late and poison messages, and a log of all of them."""

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from feed_worker.client import Client
from infra.ports.clock import DAY_MS, now_ms
from infra.ports.producer import KafkaProducer, Record
from infra.ports.settings import Settings
from infra.world import WorldConfig, generate
from thunder_ingest.events import (
    MAX_MESSAGE_BYTES,
    Block,
    FeedRequest,
    Post,
    key_of_id,
)
from thunder_ingest.posts.table import PostTable, changelog
from thunder_ingest.users.entries import entries_by_user
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole

LATE_MS, DEADLINE_MS = 5_000, 1_000
POISON_KEY = b"poison-"

_POISON_MESSAGES: list[Callable[[str], Any]] = [
    lambda name: b"not json at all \xff " + name.encode(),
    lambda name: {"request_id": name, "user_id": [1], "at": now()},
    lambda name: {"request_id": name, "user_id": 1, "at": now(), "size": "many"},
    lambda name: {"request_id": name, "user_id": 1, "at": now() + 10 * DAY_MS},
    lambda name: {"request_id": name, "user_id": 1, "at": now(), "surface": "x" * MAX_MESSAGE_BYTES},
    lambda name: {"request_id": name, "user_id": "{1}", "at": now()},
]


class SentRequest(NamedTuple):
    """A valid request. `number` gives the order of all actions of the app."""

    number: int
    request: FeedRequest
    is_late: bool
    """True if its deadline had passed before it was published."""


class App:
    """Publishes requests for the users of a small world, blocks authors and deletes posts. Records every action."""

    def __init__(self, settings: Settings, client: Client, random_: random.Random) -> None:
        self._settings, self._client, self._random = settings, client, random_
        self._users, self._names = UserStates(client.redis), itertools.count(1)
        self._request_times: dict[int, set[int]] = {}
        self.sent: dict[str, SentRequest] = {}
        """The valid requests by request id."""
        self.poison: dict[bytes, bytes] = {}
        """The poison messages: values by key."""
        self.published = 0
        """The number of published messages, duplicates included."""
        self.blocked: list[tuple[int, int, int]] = []
        """Number of the action, user id, author id."""
        self.deleted: list[tuple[int, int]] = []
        """Number of the action, post id."""

    def write_world(self) -> None:
        """Write the state that the flows derive from the log of a small world."""
        world = generate(WorldConfig(seed=7, users=60, authors=60, posts=1_500, engagements=3_000), now())
        posts, live = PostTable(self._settings.remembered_ms), dict[int, Post]()
        for event in world.posts:
            if post := posts.apply(event, event.at):
                live[post.post_id] = post
        others = [*world.engagements, *world.graph]
        self._publish(Record("thunder-posts", *changelog(post)) for post in live.values())
        declare_whole(self._client.redis)
        self._users.write(entries_by_user(others), "0")
        self.users = sorted({event.user_id for event in others if isinstance(event.user_id, int)})
        self._posts = [post.post_id for post in live.values()]
        self._authors = sorted({post.author_id for post in live.values()})
        self._random.shuffle(self._posts)

    def block(self) -> None:
        """Block one author for one user. Feeds of later requests must not show the author to the user."""
        user, author = self._random.choice(self.users), self._random.choice(self._authors)
        if user != author:
            entries = entries_by_user([Block(user_id=user, target_id=author, at=now())])
            self._users.write(entries, f"block-{user}-{author}")
            self.blocked.append((next(self._names), user, author))

    def delete(self, number: int) -> None:
        """Delete posts. Workers that start later read the deletions before they answer."""
        deleted = [self._posts.pop() for _ in range(number)]
        self._publish(Record("thunder-posts", key_of_id(post_id), None) for post_id in deleted)
        self.deleted += [(next(self._names), post_id) for post_id in deleted]

    def request_feeds(self, number: int, during_s: float) -> None:
        """Publish requests over some seconds. They come in bursts, because only bursts form queues."""
        bursts = list(self._bursts(number))
        for size in bursts:
            for _ in range(size):
                self._publish_one()
            time.sleep(self._random.uniform(0.0, 2.0) * during_s / len(bursts))

    def flush(self) -> None:
        """Wait until Kafka has accepted all messages."""
        self._client.flush(120.0)

    def _bursts(self, number: int) -> Iterator[int]:
        while number > 0:
            size = min(number, self._random.choice((1, 1, 2, 3, 10)))
            yield size
            number -= size

    def _publish_one(self) -> None:
        draw = self._random.random()
        if draw < 0.02:
            self._publish_poison()
            return
        request = self._request(is_late=draw < 0.05)
        for _ in range(2 if draw > 0.97 else 1):  # an app retries after a lost acknowledgement
            self._client.publish(request)
            self.published += 1
        self.sent[request.request_id] = SentRequest(self._number(request), request, draw < 0.05)

    def _number(self, request: FeedRequest) -> int:
        return int(request.request_id.removeprefix("r-"))

    def _request(self, *, is_late: bool) -> FeedRequest:
        user = self._random.choice(self.users)
        return FeedRequest(
            request_id=f"r-{next(self._names)}",
            user_id=user,
            at=self._at(user, LATE_MS * is_late),
            size=self._random.choice((3, 3, 3, 8)),
            explain=self._random.random() < 0.05 or None,
            deadline_ms=DEADLINE_MS if is_late else self._random.choice((None,) * 9 + (1_500,)),
        )

    def _at(self, user: int, late_ms: int) -> int:
        """The time of a request: now or up to 30 s earlier. It is unique for the user; the times are out of order."""
        at = now() - late_ms - self._random.choice((0, 0, 0, self._random.randrange(1, 30_000)))
        times = self._request_times.setdefault(user, set())
        while at in times:
            at += 1
        times.add(at)
        return at

    def _publish_poison(self) -> None:
        number = next(self._names)
        message = self._random.choice(_POISON_MESSAGES)(f"p-{number}")
        value = message if isinstance(message, bytes) else json.dumps({"type": "feed_request"} | message).encode()
        key = POISON_KEY + b"%d" % number
        self.poison[key] = value
        self._client.publish_raw("feed-requests", key, value)
        self.published += 1

    def _publish(self, records: Iterator[Record]) -> None:
        publisher = KafkaProducer(self._settings)
        publisher.publish(records)
        publisher.flush()


def is_poison(key: bytes) -> bool:
    """True if the app published the message as poison."""
    return key.startswith(POISON_KEY)


def now() -> int:
    return now_ms()
