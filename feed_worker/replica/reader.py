"""The worker's copy of what the flows derive: posts, counts and vectors, replicated from their topics into memory.

The vectors of another model are collected beside those that are served: what comes from then on, and all that was
written before, in whatever order worker and flow heard of that model. For that `post-embeddings` is read once more, by
the same thread, in small batches between those that come, up to where the worker is: what is read there is older than
what it knows, and after the last of it each post has its newest vector again.
"""

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from queue import SimpleQueue
from typing import Final, TypeAlias

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from feed_worker.replica.index_traits import describe, traits_of
from infra.ports.clock import Clock
from infra.ports.kafka import consumer_config, group, partitions_of, watermarks
from infra.ports.outage import outage
from infra.ports.settings import Settings
from phoenix.index.retrieval_index import VectorIndex
from thunder_ingest.events import PostEmbedding, unpack_counts, unpack_embedding, unpack_post
from thunder_ingest.posts.store import PostStore

log = logging.getLogger(__name__)

VECTORS = "post-embeddings"
TOPICS = ("thunder-posts", VECTORS, "post-counts")
POLL_S = 0.02
BACKFILL_MESSAGES = 1_000
"""Vectors read once more between two looks at what has come: some milliseconds of work."""
_READ_AHEAD: Final = {
    # librdkafka rests for a second, by default, whenever it has read ahead as far as it may
    "fetch.queue.backoff.ms": 5,
    "queued.max.messages.kbytes": 65_536,
}
EXPIRE_EVERY_S = 5.0
COLLECT_AFTER = 100_000


def tune_garbage_collector() -> None:
    """Have the cyclic garbage collector look at what is new only, and seldom.

    Records make objects by the thousand that are gone before the next batch; looking for cycles among them, and among
    all that was imported, takes as long as reading them.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)


Records: TypeAlias = Sequence[tuple[bytes | None, bytes | None]]
"""Keys and values of one topic in their order; a value is None where a record is a tombstone."""
Newest: TypeAlias = dict[bytes | None, bytes | None]


@dataclass(slots=True)
class ReplicaState:
    """What requests are answered from, as far as it is derived from posts; `clock` is told the times of posts.

    Of vectors it takes over those of `versions`: of the model that this worker asks, and of the one that it is about
    to. Those of all others, perhaps of another width, would only take memory here.
    """

    store: PostStore
    index: VectorIndex
    clock: Clock
    versions: tuple[str, ...]

    def apply(self, by_topic: Mapping[str, Records]) -> None:
        """Take over records of TOPICS."""
        self._apply_posts(dict(by_topic.get("thunder-posts", ())))
        self.apply_vectors(by_topic.get(VECTORS, ()), self.versions)
        counts = dict(by_topic.get("post-counts", ())).values()
        self.store.apply_counts([unpack_counts(value) for value in counts if value])

    def apply_vectors(self, records: Records, versions: Sequence[str]) -> None:
        """Take over the vectors of some models."""
        for version, newest in _by_version(records, versions).items():
            if gone := [int(key or 0) for key, embedding in newest.items() if embedding is None]:
                self.index.remove(np.array(gone, np.int64), version)
            if wanted := [embedding for embedding in newest.values() if embedding is not None]:
                ids = np.array([embedding.post_id for embedding in wanted], np.int64)
                packed = b"".join(embedding.vector for embedding in wanted)
                vectors = np.frombuffer(packed, "<f4").reshape(len(wanted), -1)
                self.index.upsert(ids, vectors, version, traits_of(self.store, ids))

    def _apply_posts(self, records: Newest) -> None:
        values = list(filter(None, records.values()))
        newest_ms, others = self.store.apply_packed(values)
        if newest_ms:
            self.clock.observe(newest_ms)
        posts = [unpack_post(values[place]) for place in others]
        gone = [int(key or 0) for key, value in records.items() if value is None]
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


def _by_version(records: Records, versions: Sequence[str]) -> dict[str, dict[bytes | None, PostEmbedding | None]]:
    """For each of some models what is the newest of each post: a vector, or None where the post is gone."""
    newest: dict[str, dict[bytes | None, PostEmbedding | None]] = {version: {} for version in versions}
    for key, value in records:
        if value is None:
            for of_version in newest.values():
                of_version[key] = None
        elif (embedding := unpack_embedding(value)).model_version in newest:
            newest[embedding.model_version][key] = embedding
    return newest


class Replica:
    """Reads the three topics whole, in a thread of its own, and goes on reading; belongs to no consumer group.

    What is to be done by that thread, between two batches, is left in `_orders`.
    """

    def __init__(
        self, settings: Settings, store: PostStore, index: VectorIndex, clock: Clock, model_version: str
    ) -> None:
        self._copies = ReplicaState(store, index, clock, (model_version,))
        self._outage = outage("Kafka", settings.kafka)
        self._config = consumer_config(settings, group(settings, "replica")) | _READ_AHEAD
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._again: VectorBackfill | None = None
        self._consumer = Consumer(self._config)
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
        self._end_again()

    def collect(self, version: str) -> threading.Event:
        """Have the vectors of another model too; the event is set once all that stand in the log are there."""
        collected = threading.Event()
        self._orders.put(lambda: self._collect(version, collected))
        return collected

    def forget(self, version: str) -> None:
        """Give back the vectors of a model, and have no more of them."""
        self._orders.put(lambda: self._forget(version))

    def _assign(self, partitions: dict[str, list[int]]) -> dict[tuple[str, int], int]:
        parts = [TopicPartition(topic, part, OFFSET_BEGINNING) for topic in TOPICS for part in partitions[topic]]
        self._parts = parts
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
        while not self._orders.empty():
            self._orders.get()()
        messages = _usable(self._consumer.consume(5_000, POLL_S))
        if messages:
            self._outage.ends()
            self._apply(messages)
        if self._again is not None:
            self._read_again(self._again)
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
        by_topic: dict[str, list[tuple[bytes | None, bytes | None]]] = {topic: [] for topic in TOPICS}
        for topic, run in groupby(messages, Message.topic):
            by_topic[topic or ""] += _records(list(run))
        self._copies.apply(by_topic)

    def _collect(self, version: str, collected: threading.Event) -> None:
        self._end_again()
        self._copies.versions += (version,)
        parts = [TopicPartition(part.topic, part.partition, OFFSET_BEGINNING) for part in self._vector_parts()]
        consumer = Consumer(self._config)
        consumer.assign(parts)
        self._again = VectorBackfill(version, consumer, collected)

    def _forget(self, version: str) -> None:
        if self._again is not None and self._again.version == version:
            self._end_again()
        self._copies.versions = tuple(each for each in self._copies.versions if each != version)
        self._copies.index.forget(version)

    def _read_again(self, again: "VectorBackfill") -> None:
        """The next batch; once it is as far as what has been read of those partitions, nothing is left."""
        self._copies.apply_vectors(_records(_usable(again.consumer.consume(BACKFILL_MESSAGES, 0))), [again.version])
        wanted = self._consumer.position(self._vector_parts())
        reached = again.consumer.position(self._vector_parts())
        if all(mine.offset >= its.offset for mine, its in zip(reached, wanted, strict=True)):
            self._end_again()
            again.collected.set()

    def _end_again(self) -> None:
        if self._again is not None:
            self._again.consumer.close()
            self._again = None

    def _vector_parts(self) -> list[TopicPartition]:
        return [TopicPartition(part.topic, part.partition) for part in self._parts if part.topic == VECTORS]


@dataclass(frozen=True, slots=True)
class VectorBackfill:
    """Who reads the vectors of a model once more, and whom to tell that all have been read."""

    version: str
    consumer: Consumer
    collected: threading.Event


def _records(messages: list[Message]) -> Records:
    return list(zip(map(Message.key, messages), map(Message.value, messages), strict=True))


def _usable(messages: list[Message]) -> list[Message]:
    errors: Iterable[KafkaError | None] = map(Message.error, messages)
    for error in (error for error in errors if error is not None):
        if not error.retriable():
            raise KafkaException(error)
    return [message for message in messages if message.error() is None]
