"""The worker's copy of what the flows derive: posts, counts and vectors, replicated from their topics into memory."""

import gc
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final, TypeAlias

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from feed_worker.post_traits import describe, traits_of
from infra.clock import Clock
from infra.kafka import consumer_config, group, partitions_of, watermarks
from infra.outage import outage
from infra.settings import Settings
from phoenix.index import VectorIndex
from thunder_ingest.events import unpack_counts, unpack_embedding, unpack_post
from thunder_ingest.post_store import PostStore

log = logging.getLogger(__name__)

TOPICS = ("thunder-posts", "post-embeddings", "post-counts")
POLL_S = 0.02
_READ_AHEAD: Final = {
    # librdkafka rests for a second, by default, whenever it has read ahead as far as it may
    "fetch.queue.backoff.ms": 5,
    "queued.max.messages.kbytes": 65_536,
}
EXPIRE_EVERY_S = 5.0
COLLECT_AFTER = 100_000


def spare_collector() -> None:
    """Have the cyclic garbage collector look at what is new only, and seldom.

    Records make objects by the thousand that are gone before the next batch; looking for cycles among them, and among
    all that was imported, takes as long as reading them.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)


Records: TypeAlias = dict[bytes | None, bytes | None]
"""Values of one topic by key, None where a record is a tombstone."""


@dataclass(frozen=True, slots=True)
class Copies:
    """What requests are answered from, as far as it is derived from posts; `clock` is told the times of posts.

    Of vectors it takes over those of `model_version`, which is what this worker asks for. While the flows go over to
    another model its vectors, perhaps of another width, would only take memory here.
    """

    store: PostStore
    index: VectorIndex
    clock: Clock
    model_version: str

    def apply(self, by_topic: Mapping[str, Records]) -> None:
        """Take over records of TOPICS."""
        self._apply_posts(by_topic.get("thunder-posts", {}))
        self._apply_vectors(by_topic.get("post-embeddings", {}))
        counts = by_topic.get("post-counts", {}).values()
        self.store.apply_counts([unpack_counts(value) for value in counts if value])

    def _apply_posts(self, records: Records) -> None:
        values = list(filter(None, records.values()))
        newest_ms, others = self.store.apply_packed(values)
        if newest_ms:
            self.clock.observe(newest_ms)
        posts = [unpack_post(values[place]) for place in others]
        gone = _without_value(records)
        gone += [post.post_id for post in posts if not post.is_live]
        live = [post for post in posts if post.is_live]
        if gone:
            # out of the index first: what the store does not know is never shown, what it knows must be right
            self.index.remove(np.array(gone, np.int64))
            self.store.remove(gone)
        if live:
            self.store.apply(live)
            self.clock.observe(max(post.created_at for post in live))
        describe(self.index, self.store, np.array([int(key or 0) for key in records], np.int64))

    def _apply_vectors(self, records: Records) -> None:
        gone = _without_value(records)
        if gone:
            self.index.remove(np.array(gone, np.int64))
        embeddings = map(unpack_embedding, filter(None, records.values()))
        wanted = [embedding for embedding in embeddings if embedding.model_version == self.model_version]
        if wanted:
            ids = np.array([embedding.post_id for embedding in wanted], np.int64)
            vectors = np.frombuffer(b"".join(embedding.vector for embedding in wanted), "<f4").reshape(len(wanted), -1)
            self.index.upsert(ids, vectors, self.model_version, traits_of(self.store, ids))


class Replica:
    """Reads the three topics whole, in a thread of its own, and goes on reading; belongs to no consumer group."""

    def __init__(
        self, settings: Settings, store: PostStore, index: VectorIndex, clock: Clock, model_version: str
    ) -> None:
        self._copies = Copies(store, index, clock, model_version)
        self._outage = outage("Kafka", settings.kafka)
        self._consumer = Consumer(consumer_config(settings, group(settings, "replica")) | _READ_AHEAD)
        self._ends = self._assign(partitions_of(settings, TOPICS))
        self._left: dict[str, int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replica", daemon=True)
        self._expired_at = time.monotonic()
        self.caught_up = threading.Event()
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def _assign(self, partitions: dict[str, list[int]]) -> dict[tuple[str, int], int]:
        parts = [TopicPartition(topic, part, OFFSET_BEGINNING) for topic in TOPICS for part in partitions[topic]]
        self._consumer.assign(parts)
        ends = {(part.topic, part.partition): watermarks(self._consumer, part) for part in parts}
        return {part: high for part, (low, high) in ends.items() if high > low}

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._step()
        except BaseException as error:  # the worker's own thread ends the process and says why
            self.failure = error
            self.caught_up.set()
            raise

    def _step(self) -> None:
        messages = _usable(self._consumer.consume(5_000, POLL_S))
        if messages:
            self._outage.ends()
            self._apply(messages)
        if not self.caught_up.is_set() and self._reached():  # while others write there is always a message
            self.caught_up.set()
        if time.monotonic() - self._expired_at > EXPIRE_EVERY_S:
            self._expired_at = time.monotonic()
            self._copies.store.expire(self._copies.clock.now_ms())

    def _reached(self) -> bool:
        left = dict.fromkeys(TOPICS, 0)
        for part in self._consumer.position([TopicPartition(*part) for part in self._ends]):
            left[part.topic] += max(0, self._ends[part.topic, part.partition] - max(0, part.offset))
        self._left = left
        return not any(left.values())

    @property
    def waits_for(self) -> str | None:
        """How much of what was in the topics at the start is still to be read; None once nothing is."""
        if self.caught_up.is_set():
            return None
        behind = (f"{topic} ({left:,} offsets)" for topic, left in self._left.items() if left)
        return f"reading what is in Kafka; left are {', '.join(behind) or 'all topics'}"

    def _apply(self, messages: list[Message]) -> None:
        by_topic: dict[str, Records] = {topic: {} for topic in TOPICS}
        for topic, run in groupby(messages, Message.topic):
            by_topic[topic or ""] |= _records(list(run))
        self._copies.apply(by_topic)


def _records(messages: list[Message]) -> Records:
    """Values by key; of several records of one key only the last counts."""
    return dict(zip(map(Message.key, messages), map(Message.value, messages), strict=True))


def _without_value(records: Records) -> list[int]:
    return [int(key or 0) for key, value in records.items() if value is None]


def _usable(messages: list[Message]) -> list[Message]:
    errors: Iterable[KafkaError | None] = map(Message.error, messages)
    for error in (error for error in errors if error is not None):
        if not error.retriable():
            raise KafkaException(error)
    return [message for message in messages if message.error() is None]
