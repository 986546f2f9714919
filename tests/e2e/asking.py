"""An app that asks for feeds: requests of every kind, some that nobody can use, and what it knows about each."""

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

LATE_MS, DEADLINE_MS = 5_000, 1_000
POISON_KEY = b"poison-"

_POISON: list[Callable[[str], Any]] = [
    lambda name: b"not json at all \xff " + name.encode(),
    lambda name: {"request_id": name, "user_id": [1], "at": now()},
    lambda name: {"request_id": name, "user_id": 1, "at": now(), "size": "many"},
    lambda name: {"request_id": name, "user_id": 1, "at": now() + 10 * DAY_MS},
    lambda name: {"request_id": name, "user_id": 1, "at": now(), "surface": "x" * 2 * MAX_MESSAGE_BYTES},
    lambda name: {"request_id": name, "user_id": "{1}", "at": now()},
]


class Asked(NamedTuple):
    """A well-formed request; `number` counts all that was done, in order."""

    number: int
    request: FeedRequest
    is_late: bool
    """Its deadline had passed before it was published."""


class App:
    """Publishes requests of the readers of a small world, blocks and deletes on the way, and remembers all of it."""

    def __init__(self, settings: Settings, client: Client, random_: random.Random) -> None:
        self._settings, self._client, self._random = settings, client, random_
        self._users, self._names = UserStates(client.redis), itertools.count(1)
        self._taken: dict[int, set[int]] = {}
        self.asked: dict[str, Asked] = {}
        self.poison: dict[bytes, bytes] = {}
        """By its key."""
        self.published = 0
        """Messages, those included that were published twice."""
        self.blocked: list[tuple[int, int, int]] = []
        """When, who, whom."""
        self.deleted: list[tuple[int, int]] = []
        """When, which post."""

    def settle(self) -> None:
        """Write what flows would have derived from the log of a small world."""
        world = generate(WorldConfig(seed=7, users=60, authors=60, posts=1_500, engagements=3_000), now())
        posts, live = PostTable(self._settings.remembered_ms), dict[int, Post]()
        for event in world.posts:
            if post := posts.apply(event, event.at):
                live[post.post_id] = post
        others = [*world.engagements, *world.graph]
        self._publish(Record("thunder-posts", *changelog(post)) for post in live.values())
        self._users.write(entries_by_user(others), "0")
        self.users = sorted({event.user_id for event in others if isinstance(event.user_id, int)})
        self._posts = [post.post_id for post in live.values()]
        self._authors = sorted({post.author_id for post in live.values()})
        self._random.shuffle(self._posts)

    def block(self) -> None:
        """One reader blocks one author: no request asked from now on may show them to each other."""
        user, author = self._random.choice(self.users), self._random.choice(self._authors)
        if user != author:
            entries = entries_by_user([Block(user_id=user, target_id=author, at=now())])
            self._users.write(entries, f"block-{user}-{author}")
            self.blocked.append((next(self._names), user, author))

    def delete(self, number: int) -> None:
        """Some posts go; workers that start from now on know it before they answer."""
        gone = [self._posts.pop() for _ in range(number)]
        self._publish(Record("thunder-posts", key_of_id(post_id), None) for post_id in gone)
        self.deleted += [(next(self._names), post_id) for post_id in gone]

    def ask(self, number: int, during_s: float) -> None:
        """Publish requests over some seconds: in bursts, since queues form only then."""
        bursts = list(self._bursts(number))
        for size in bursts:
            for _ in range(size):
                self._ask()
            time.sleep(self._random.uniform(0.0, 2.0) * during_s / len(bursts))

    def flush(self) -> None:
        """Wait until Kafka has everything."""
        self._client.flush(120.0)

    def _bursts(self, number: int) -> Iterator[int]:
        while number > 0:
            size = min(number, self._random.choice((1, 1, 2, 3, 10)))
            yield size
            number -= size

    def _ask(self) -> None:
        draw = self._random.random()
        if draw < 0.02:
            self._ask_the_impossible()
            return
        request = self._request(is_late=draw < 0.05)
        for _ in range(2 if draw > 0.97 else 1):  # an app that does not know whether its request has arrived
            self._client.publish(request)
            self.published += 1
        self.asked[request.request_id] = Asked(self._number(request), request, draw < 0.05)

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
        """Now, or for some well before the same user's last request: no two alike, and not in order."""
        at = now() - late_ms - self._random.choice((0, 0, 0, self._random.randrange(1, 30_000)))
        taken = self._taken.setdefault(user, set())
        while at in taken:
            at += 1
        taken.add(at)
        return at

    def _ask_the_impossible(self) -> None:
        number = next(self._names)
        made = self._random.choice(_POISON)(f"p-{number}")
        value = made if isinstance(made, bytes) else json.dumps({"type": "feed_request"} | made).encode()
        key = POISON_KEY + b"%d" % number
        self.poison[key] = value
        self._client.publish_raw("feed-requests", key, value)
        self.published += 1

    def _publish(self, records: Iterator[Record]) -> None:
        publisher = KafkaProducer(self._settings)
        publisher.publish(records)
        publisher.flush()


def is_poison(key: bytes) -> bool:
    """Whether a message was published as one that nobody can use."""
    return key.startswith(POISON_KEY)


def now() -> int:
    return now_ms()
