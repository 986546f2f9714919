"""A running system under damaged messages, stored values and HTTP requests.

No process ends, every message is used or in `dead-letters`, and memory stays level. `make test` sends 10,000 inputs;
FORYOU_SOAK=1 (`make soak`) sends a million with the same code.
"""

import contextlib
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import psutil
import pytest
import redis
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from infra.ports.clock import now_ms
from infra.ports.consumer import partitions_of
from infra.ports.redis import connect
from infra.ports.settings import Settings, load
from infra.ports.topic_reader import scan
from infra.stack.stack import Stack
from tests.fuzz.events import TOPICS, USERS, VIEWERS, drawn
from tests.fuzz.mutations import HOSTILE, damaged_bytes, damaged_fields, damaged_json
from tests.fuzz.test_http import REQUESTS, free_port
from tests.fuzz.test_stored_values import VALUES
from thunder_ingest.events import Account, FeedRequest, PostEvent, decode, unpack_dead_letter, unpack_feed_served
from thunder_ingest.events.ids import id64, published_form
from thunder_ingest.events.redis_keys import answered_key, feed_key, user_key

pytestmark = pytest.mark.embedded

INPUTS: Final = 1_000_000 if os.environ.get("FORYOU_SOAK") else 10_000
WAIT_S: Final = 3_600.0
GROWTH_BYTES: Final = 64 << 20
LARGE: Final = b'{"type":"follow","x":"' + b"x" * 5_000_000 + b'"}'
"""Some hundred bytes on the wire, compressed."""

Place: TypeAlias = tuple[str, int, int]
"""Topic, partition and offset of a message."""


class Fuzzer:
    """Sends inputs to a running stack, and finds out where each message went."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self.stack, self.settings, self._draw = stack, stack.settings, random.Random(seed)
        self._producer = Producer(
            {"bootstrap.servers": stack.settings.kafka, "compression.type": "zstd", "message.max.bytes": 8_000_000}
        )
        self._redis: redis.Redis = connect(stack.settings)  # type: ignore[assignment]
        self._partitions = partitions_of(stack.settings, TOPICS)
        self._number = 0
        self.dead: set[Place] = set()
        self.answered: set[str] = set()
        self._outcomes = self._consumer(("dead-letters", "feeds-served"))

    def _consumer(self, topics: tuple[str, ...]) -> Consumer:
        consumer = Consumer(
            {"bootstrap.servers": self.settings.kafka, "group.id": "fuzz", "auto.offset.reset": "earliest"}
        )
        parts = partitions_of(self.settings, topics)
        consumer.assign([TopicPartition(topic, part, 0) for topic in topics for part in parts[topic]])
        return consumer

    def send(self, inputs: int) -> None:
        """Send a number of inputs of all kinds."""
        for _ in range(inputs):
            self._number += 1
            kind = self._draw.random()
            if kind < 0.96:
                self._send_message()
            elif kind < 0.98:
                self._store_value()
            else:
                self._send_http()
            if self._number % 1_000 == 0:
                self.stack.check()
        self._producer.flush()

    def _send_message(self) -> None:
        draw = self._draw
        topic, event = drawn(draw, self._number, now_ms())
        raw = LARGE if draw.random() < 0.0005 else damaged_json(draw, event)
        key = draw.choice((None, b"", b"7", draw.randbytes(9)))
        headers: Any = [("state", draw.randbytes(5))] if draw.random() < 0.05 else None
        while True:
            try:
                self._producer.produce(topic, raw, key, headers=headers)
                break
            except BufferError:
                self._producer.poll(0.1)

    def _store_value(self) -> None:
        """Damage what Redis has of a viewer, or of a user without feeds."""
        draw = self._draw
        number = draw.randrange(1, VIEWERS // 2) if draw.random() < 0.5 else draw.randrange(USERS - 50, USERS)
        user, client = str(number), self._redis
        fields: Any = client.hgetall(user_key(user)) if client.type(user_key(user)) == b"hash" else {}
        with contextlib.suppress(redis.ResponseError):  # another type is stored there
            match draw.randrange(6):
                case 0:
                    client.set(user_key(user), draw.randbytes(9))
                case 1:
                    client.delete(user_key(user))
                    fields = {b"history": b"\x09", b"blocks+1": draw.randbytes(9)}
                    client.hset(user_key(user), mapping=fields)
                case 2:
                    client.set(feed_key(user), draw.choice((b"{", b"null", draw.randbytes(30))))
                case 3:
                    client.hset(answered_key(user), "joined", draw.randbytes(9))
                case _ if fields:
                    fields = damaged_fields(draw, fields, VALUES)
                    client.delete(user_key(user))
                    client.hset(user_key(user), mapping=fields)
                case _:
                    pass

    def _send_http(self) -> None:
        raw = self._draw.choice(REQUESTS)
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.settings.http_port), 5) as client,
        ):
            client.sendall(damaged_bytes(self._draw, raw))

    def settle(self) -> None:
        """Wait until all messages before this call are processed: each partition is read in order."""
        ends = set[Place]()

        def sent(error: object, message: Message) -> None:
            assert error is None
            ends.add(place_of(message))

        for topic in TOPICS:
            for part in self._partitions[topic]:
                self._producer.produce(topic, b"the end", b"", part, on_delivery=sent)
        self._producer.flush()
        self._wait(lambda: ends <= self.dead)
        asked = {event.request_id for event in self._accepted("feed-requests").values()}
        self._wait(lambda: asked <= self.answered)

    def _wait(self, is_done: Any) -> None:
        until = time.monotonic() + WAIT_S
        while not is_done():
            self.stack.check()
            assert time.monotonic() < until, "messages are neither used nor dead-lettered"
            for message in self._outcomes.consume(5_000, 0.5):
                value = message.value()
                if message.topic() == "feeds-served" and value is not None:
                    self.answered.add(unpack_feed_served(value).request_id)
                elif value is not None:
                    letter = unpack_dead_letter(value)
                    self.dead.add((letter.topic, letter.partition, letter.offset))

    def _accepted(self, topic: str) -> dict[Place, Any]:
        """The events of all messages that are not in `dead-letters`; each can be decoded."""
        places = (message for batch in scan(self.settings, [topic]) for message in batch)
        return {
            place_of(message): decode(topic, message.value())
            for message in places
            if place_of(message) not in self.dead
        }

    def unused(self) -> list[object]:
        """The accepted events without a trace of their use."""
        posts, accounts = (
            {message.key() for batch in scan(self.settings, [topic]) for message in batch}
            for topic in ("thunder-posts", "accounts")
        )
        users = {str(key.decode()) for key in self._redis.scan_iter(match="user:*", count=1_000)}
        oldest_ms = now_ms() - self.settings.remembered_ms

        def is_used(event: Any) -> bool:
            if isinstance(event, PostEvent):
                return b"%d" % id64(event.post_id) in posts or event.at < oldest_ms
            if isinstance(event, FeedRequest):
                return event.request_id in self.answered
            if isinstance(event, Account):
                return b"%d" % id64(event.user_id) in accounts
            return user_key(published_form(event.user_id)) in users

        return [event for topic in TOPICS for event in self._accepted(topic).values() if not is_used(event)]


def place_of(message: Message) -> Place:
    return message.topic() or "", message.partition() or 0, message.offset() or 0


def memory(stack: Stack) -> dict[str, int]:
    """Resident bytes of the flows and the worker."""
    return {name: psutil.Process(pid).memory_info().rss for name, pid in stack.pids().items()}


@pytest.fixture
def settings() -> Settings:
    return load(model="nano", partitions=2, http_port=free_port())


@pytest.fixture
def fuzzer(settings: Settings, tmp_path: Path) -> Iterator[Fuzzer]:
    with Stack(settings, tmp_path) as stack:
        stack.wait_ready()
        yield Fuzzer(stack, seed=15)
        stack.check()


def test_no_input_ends_a_process_or_is_lost_and_memory_stays_level(fuzzer: Fuzzer) -> None:
    assert HOSTILE
    fuzzer.send(INPUTS // 2)
    fuzzer.settle()
    before = memory(fuzzer.stack)
    fuzzer.send(INPUTS - INPUTS // 2)
    fuzzer.settle()
    after = memory(fuzzer.stack)
    assert fuzzer.unused() == []
    assert {name for name in before if after[name] > before[name] * 1.25 + GROWTH_BYTES} == set()
