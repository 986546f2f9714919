"""The worker's replica: posts, counts, vectors and the status of accounts, copied from their topics into memory.

Counts are read after the posts that were in the log at the start. Their records are smaller, so they would run ahead,
and counts of posts that are not stored wait in bounded memory.

During a model swap the vectors of the next model are collected beside those that serve: new ones, and all that are in
the log already. For these, `post-embeddings` is read a second time (backfill), by the same thread, in small batches
between those of the main consumer, up to the main consumer's position. The backfill's records are older than the
replica's, so its last record leaves every post with its newest vector.
"""

import gc
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from queue import SimpleQueue
from typing import Final, TypeAlias, cast

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from feed_worker.replica.index_traits import describe, traits_of
from infra.ports.broken_records import UNREADABLE, skip_record
from infra.ports.clock import Clock
from infra.ports.consumer import MessageCheck, partitions_of, watermarks
from infra.ports.kafka_config import consumer_config, group, kafka_outage, kafka_probe
from infra.ports.producer import Headers
from infra.ports.settings import Settings
from phoenix.index.retrieval_index import VectorIndex
from thunder_ingest.events import PostEmbedding, unpack_account, unpack_counts, unpack_embedding, unpack_post
from thunder_ingest.posts.store import PostStore
from thunder_ingest.posts.table import STATE_HEADER

log = logging.getLogger(__name__)

VECTORS = "post-embeddings"
COUNTS = "post-counts"
ACCOUNTS = "accounts"
TOPICS = ("thunder-posts", VECTORS, COUNTS, ACCOUNTS)
FOLLOWED = ("thunder-posts", ACCOUNTS)
"""The topics whose positions clients wait for."""
POLL_S = 0.04
BACKFILL_MESSAGES = 1_000
"""Records of the backfill between two batches of the main consumer: a few milliseconds of work."""
_READ_AHEAD: Final = {
    # by default librdkafka pauses for a second whenever its read-ahead queue is full
    "fetch.queue.backoff.ms": 5,
    "queued.max.messages.kbytes": 65_536,
}
EXPIRE_EVERY_S = 5.0
COLLECT_AFTER = 100_000
_METADATA_S: Final = 1.0


def tune_garbage_collector() -> None:
    """Make the cyclic garbage collector run rarely, and skip all objects that exist now. For the main thread, once.

    Reading makes thousands of short-lived objects a batch. The collector's default passes over these and over all
    imported modules take as long as the reading itself.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)


Records: TypeAlias = Sequence[tuple[bytes | None, bytes | None]]
"""Keys and values of one topic, in order. The value of a tombstone is None, or the state that its header has."""


@dataclass(slots=True)
class ReplicaState:
    """The state that requests are answered from, except users. For the replica thread.

    Attributes:
        store: the posts and their counts.
        index: the vectors.
        clock: observes the times of posts.
        versions: the models whose vectors are kept: the one that serves, and the next one during a swap. The vectors of
            other models may have another width, and would only take memory.

    """

    store: PostStore
    index: VectorIndex
    clock: Clock
    versions: tuple[str, ...]

    def apply(self, by_topic: Mapping[str, Records]) -> None:
        """Apply records of TOPICS; those that cannot be read are skipped."""
        apply_readable(by_topic, self._apply)

    def _apply(self, by_topic: Mapping[str, Records]) -> None:
        self.store.accounts.apply(unpack_account(value) for _, value in by_topic.get(ACCOUNTS, ()) if value)
        self._apply_posts(by_topic.get("thunder-posts", ()))
        self.apply_vectors(by_topic.get(VECTORS, ()), self.versions)
        counts = dict(by_topic.get(COUNTS, ()))
        self.store.remove_counts([int(key or 0) for key, value in counts.items() if value is None])
        self.store.apply_counts([unpack_counts(value) for value in counts.values() if value is not None])

    def apply_vectors(self, records: Records, versions: Sequence[str]) -> None:
        """Apply the vectors of some models."""
        for version, newest in _by_version(records, versions).items():
            if gone := [int(key or 0) for key, embedding in newest.items() if embedding is None]:
                self.index.remove(np.array(gone, np.int64), version)
            if wanted := [embedding for embedding in newest.values() if embedding is not None]:
                ids = np.array([embedding.post_id for embedding in wanted], np.int64)
                if (deleted := self.store.were_deleted(ids)).any():  # their tombstones may be in other partitions
                    kept = np.flatnonzero(~deleted)
                    wanted, ids = [wanted[place] for place in kept.tolist()], ids[kept]
                packed = b"".join(embedding.vector for embedding in wanted)
                vectors = np.frombuffer(packed, "<f4").reshape(len(wanted), -1)
                self.index.upsert(ids, vectors, version, traits_of(self.store, ids))

    def _apply_posts(self, records: Records) -> None:
        """Apply posts and the states of tombstones; a post's records may come from several partitions, in any order."""
        newest = dict(records)
        repeated: set[bytes | None] = set()
        if len(newest) < len(records):
            repeated = {key for key, times in Counter(key for key, _ in records).items() if times > 1}
        standing = {
            key for key in repeated if newest[key] is not None
        }  # else a removed post would be there for a moment
        posts = [unpack_post(value) for key, value in records if value and key in standing]
        self.store.apply(posts)
        values = [value for key, value in newest.items() if value and key not in repeated]
        created_at, others = self.store.apply_packed(values)
        self.store.apply(some := [unpack_post(values[place]) for place in others])
        self.clock.observe(created_at.tolist())
        self.clock.observe([post.created_at for post in (*posts, *some) if post.is_live])
        self.store.remove([int(key or 0) for key, value in newest.items() if value is None])
        ids = np.array([int(key or 0) for key in newest], np.int64)
        if len(gone := ids[self.store.rows_of(ids) < 0]):
            self.index.remove(gone)
        describe(self.index, self.store, ids)


def apply_readable(by_topic: Mapping[str, Records], apply: Callable[[Mapping[str, Records]], None]) -> None:
    """Apply records together or, if one of them cannot be read, one by one: each leads to the same state again."""
    try:
        apply(by_topic)
    except UNREADABLE:
        for topic, records in by_topic.items():
            for record in records:
                try:
                    apply({topic: [record]})
                except UNREADABLE as error:
                    skip_record(topic, record[0], error)


def _by_version(records: Records, versions: Sequence[str]) -> dict[str, dict[bytes | None, PostEmbedding | None]]:
    """The newest record of each post, by model: a vector, or None for a tombstone."""
    newest: dict[str, dict[bytes | None, PostEmbedding | None]] = {version: {} for version in versions}
    for key, value in records:
        if value is None:
            for of_version in newest.values():
                of_version[key] = None
        elif (embedding := unpack_embedding(value)).model_version in newest:
            newest[embedding.model_version][key] = embedding
    return newest


class Replica:
    """Reads the four topics from their beginning, in a thread of its own, without a consumer group, and follows them.

    `start` and `stop` belong to the main thread. All other public methods and properties are for any thread: they leave
    commands in a queue, and the replica thread runs these between two batches.

    Args:
        settings: the address of Kafka.
        store: takes posts and counts.
        index: takes vectors.
        clock: observes the times of posts.
        model_version: the model that serves first.

    Attributes:
        caught_up: set once the records that were in the topics at the start have been applied, or on failure.
        failure: the error that ended the thread; None while it runs.
        positions: for each partition of FOLLOWED, such as "thunder-posts-0", the offset after the last record
            applied; replaced as a whole.

    Raises:
        BrokerUnreachable: at construction, no broker answers.
        TopicMissing: at construction, a topic does not exist.

    """

    def __init__(
        self, settings: Settings, store: PostStore, index: VectorIndex, clock: Clock, model_version: str
    ) -> None:
        self._state = ReplicaState(store, index, clock, (model_version,))
        self._config = consumer_config(settings, group(settings, "replica")) | _READ_AHEAD
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._backfill: VectorBackfill | None = None
        self.positions: dict[str, int] = {}
        self._consumer = Consumer(self._config)
        self._settings, self._check = settings, MessageCheck(settings, self._consumer)
        self._ends = self._assign(partitions_of(settings, TOPICS))
        self._left: dict[str, int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replica", daemon=True)
        self._expired_at = time.monotonic()
        self.caught_up = threading.Event()
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, wait for it, and close the consumers."""
        self._stopping.set()
        self._thread.join()
        self._consumer.close()
        self._end_backfill()

    def collect_vectors(self, version: str) -> threading.Event:
        """Also keep the vectors of another model; the event is set once all that are in the log are in the index."""
        collected = threading.Event()
        self._commands.put(lambda: self._collect(version, collected))
        return collected

    def drop_vectors(self, version: str) -> None:
        """Drop the vectors of a model, and keep no new ones."""
        self._commands.put(lambda: self._forget(version))

    def _assign(self, partitions: dict[str, list[int]]) -> dict[tuple[str, int], int]:
        parts = [TopicPartition(topic, part, OFFSET_BEGINNING) for topic in TOPICS for part in partitions[topic]]
        self._parts = parts
        self._consumer.assign(parts)
        self._hold_counts()
        ends = {(part.topic, part.partition): watermarks(self._consumer, part) for part in parts}
        return {part: high for part, (low, high) in ends.items() if high > low}

    def _follow_partitions(self) -> None:
        """Also read partitions that were added since the start: deletions may be in them."""
        try:
            topics = self._consumer.list_topics(timeout=_METADATA_S).topics
        except KafkaException as error:
            kafka_outage(self._settings).begins(error.args[0].str(), kafka_probe(self._settings))
            return
        known = {(part.topic, part.partition) for part in self._parts}
        there = {(topic, part) for topic in TOPICS if topic in topics for part in topics[topic].partitions}
        if added := sorted(there - known):
            log.info("partitions were added: %s", ", ".join(f"{topic}-{part}" for topic, part in added))
            reached = {(part.topic, part.partition): part.offset for part in self._consumer.position(self._parts)}
            self._parts += [TopicPartition(topic, part, OFFSET_BEGINNING) for topic, part in added]
            for part in self._parts:
                offset = reached.get((part.topic, part.partition), -1)
                part.offset = offset if offset >= 0 else OFFSET_BEGINNING
            self._consumer.assign(self._parts)
            if self._held:
                self._hold_counts()

    def _hold_counts(self) -> None:
        self._held = [part for part in self._parts if part.topic == COUNTS]
        self._consumer.pause(self._held)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._step()
        except BaseException as error:  # the worker's main thread raises it and ends the process
            self.failure = error
            self.caught_up.set()
            raise

    def _step(self) -> None:
        while not self._commands.empty():
            self._commands.get()()
        messages = self._check.usable(self._consumer.consume(5_000, POLL_S))
        if messages:
            self._apply(messages)
            self._note_positions()
        if self._backfill is not None:
            self._read_backfill(self._backfill)
        if not self.caught_up.is_set() and self._reached():  # not only after an empty poll: a busy topic has none
            self.caught_up.set()
        if time.monotonic() - self._expired_at > EXPIRE_EVERY_S:
            self._expired_at = time.monotonic()
            self._state.store.expire(self._state.clock.now_ms())
            if self.caught_up.is_set():
                self._follow_partitions()

    def _note_positions(self) -> None:
        parts = [TopicPartition(part.topic, part.partition) for part in self._parts if part.topic in FOLLOWED]
        read = self._consumer.position(parts)
        self.positions = {f"{part.topic}-{part.partition}": max(0, part.offset) for part in read}

    def _reached(self) -> bool:
        left = dict.fromkeys(TOPICS, 0)
        for part in self._consumer.position([TopicPartition(*part) for part in self._ends]):
            left[part.topic] += max(0, self._ends[part.topic, part.partition] - max(0, part.offset))
        self._left = left
        if self._held and not left["thunder-posts"]:
            self._consumer.resume(self._held)
            self._held = []
        return not any(left.values())

    @property
    def waits_for(self) -> str | None:
        """The records that are left to read until the replica has caught up; None once it has."""
        if self.caught_up.is_set():
            return None
        behind = (f"{topic} ({left:,} offsets)" for topic, left in self._left.items() if left)
        return f"reading the topics of posts; left are {', '.join(behind) or 'all topics'}"

    def _apply(self, messages: Sequence[Message]) -> None:
        by_topic: dict[str, list[tuple[bytes | None, bytes | None]]] = {topic: [] for topic in TOPICS}
        for topic, of_topic in groupby(messages, Message.topic):
            by_topic[topic or ""] += _records(list(of_topic))
        self._state.apply(by_topic)

    def _collect(self, version: str, collected: threading.Event) -> None:
        self._end_backfill()
        self._state.versions += (version,)
        parts = [TopicPartition(part.topic, part.partition, OFFSET_BEGINNING) for part in self._vector_parts()]
        consumer = Consumer(self._config)
        consumer.assign(parts)
        self._backfill = VectorBackfill(version, consumer, MessageCheck(self._settings, consumer), collected)

    def _forget(self, version: str) -> None:
        if self._backfill is not None and self._backfill.version == version:
            self._end_backfill()
        self._state.versions = tuple(each for each in self._state.versions if each != version)
        self._state.index.forget(version)

    def _read_backfill(self, backfill: "VectorBackfill") -> None:
        """Apply the next batch; the backfill ends at the main consumer's position."""
        messages = backfill.check.usable(backfill.consumer.consume(BACKFILL_MESSAGES, 0))
        records = {VECTORS: _records(messages)}
        apply_readable(records, lambda some: self._state.apply_vectors(some[VECTORS], [backfill.version]))
        main = self._consumer.position(self._vector_parts())
        reached = backfill.consumer.position(self._vector_parts())
        if all(own.offset >= its.offset for own, its in zip(reached, main, strict=True)):
            self._end_backfill()
            backfill.collected.set()

    def _end_backfill(self) -> None:
        if self._backfill is not None:
            self._backfill.consumer.close()
            self._backfill = None

    def _vector_parts(self) -> list[TopicPartition]:
        return [TopicPartition(part.topic, part.partition) for part in self._parts if part.topic == VECTORS]


@dataclass(frozen=True, slots=True)
class VectorBackfill:
    """A second read of `post-embeddings` for one model; `collected` is set at its end."""

    version: str
    consumer: Consumer
    check: MessageCheck
    collected: threading.Event


def _records(messages: Sequence[Message]) -> Records:
    values = list(map(Message.value, messages))
    for place in [place for place, value in enumerate(values) if value is None]:
        headers = cast(Headers, messages[place].headers() or ())
        values[place] = dict(headers).get(STATE_HEADER)
    return list(zip(map(Message.key, messages), values, strict=True))
