"""Logs for `benchmarks.ingest`: posts with Zipf-distributed words, and engagements on Zipf-distributed posts."""

import time
from collections.abc import Iterator

import numpy as np

from infra.ports.clock import now_ms
from infra.ports.producer import KafkaProducer, Record
from infra.ports.settings import Settings
from thunder_ingest.events import Engagement, Event, Impression, PostCreated, encode

WORDS_PER_POST = 12
ENGAGED_POSTS = 20_000
FIRST_POST = 10**12
AUTHORS = 50_000
CHUNK = 100_000


def posts(count: int, random: np.random.Generator) -> Iterator[tuple[bytes, bytes]]:
    """Iterate over keys and messages of original posts with twelve words."""
    vocabulary = np.array(
        ["".join(map(chr, random.integers(97, 123, length))) for length in random.integers(2, 10, 5000)]
    )
    for first in range(0, count, CHUNK):
        size = min(CHUNK, count - first)
        texts = vocabulary[random.zipf(1.2, (size, WORDS_PER_POST)) % len(vocabulary)].tolist()
        authors = random.integers(1, AUTHORS, size).tolist()
        for index, (author, words) in enumerate(zip(authors, texts, strict=True), FIRST_POST + first):
            post = PostCreated(post_id=index, author_id=author, at=now_ms(), text=" ".join(words), lang="en")
            yield b"%d" % author, encode(post)


def engagements(count: int, users: int, random: np.random.Generator) -> Iterator[tuple[bytes, bytes]]:
    """Iterate over keys and messages of impressions and favorites, half each, of equally active users."""
    viewers = random.integers(1, users + 1, count).tolist()
    viewed = (FIRST_POST + random.zipf(1.1, count) % ENGAGED_POSTS).tolist()
    for index, (user, post_id) in enumerate(zip(viewers, viewed, strict=True)):
        author, at = post_id % AUTHORS + 1, now_ms()
        event: Event = Impression(user_id=user, post_id=post_id, author_id=author, at=at, surface="home")
        if index % 2:
            event = Engagement(user_id=user, post_id=post_id, author_id=author, at=at, action="favorite")
        yield b"%d" % user, encode(event)


def publish(settings: Settings, topic: str, messages: Iterator[tuple[bytes, bytes]], rate: float = np.inf) -> None:
    """Publish messages, at most `rate` a second, and wait for their delivery."""
    publisher = KafkaProducer(settings, options={"queue.buffering.max.messages": 1_000_000})
    begin = time.perf_counter()
    for index, (key, value) in enumerate(messages):
        publisher.publish([Record(topic, key, value)])
        if index % 1_000 == 0:
            time.sleep(max(0.0, begin + index / rate - time.perf_counter()))
    publisher.flush()
