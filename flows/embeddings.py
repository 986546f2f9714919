"""thunder-posts ▸ post-embeddings: the candidate tower's vector of each live post, a tombstone for a post that is gone.

Replies and reposts get no vector: they are never candidates out of the network, and would displace others in the
retrieval. The published corpus excludes them too. A vector depends only on its post and on the model.

Run with `python -m flows embeddings --recovery DIR`.

Model swap: a new model is loaded and compiled while the flow continues. Then the flow backfills: it reads each
partition from the beginning, one bounded batch a turn, after the new messages of that turn. A backfilled post may be
older than a record that is already written. The backfill therefore continues to the current offset of the partition,
so that the newest state of each post is written last. The recovery store holds the offset of the backfill.

During the backfill, and for `swap_overlap_ms` after it, new posts get vectors of both models. The new model's vector is
written last, and compaction keeps it. So workers of either model find vectors. After a restart the flow writes
vectors of the current model only.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from typing import Final, NamedTuple, cast

import bytewax.operators as op
import numpy as np
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, Source, StatefulSourcePartition
from bytewax.outputs import Sink
from confluent_kafka import Message

from flows.process import exit_now, fail, start, stopping
from flows.sinks import KafkaSink
from flows.sources import Batch, KafkaSource
from infra.ports.broken_records import readable
from infra.ports.freed_memory import return_freed_memory
from infra.ports.producer import Headers, Record
from infra.ports.settings import Settings
from phoenix.serving.engine import Phoenix, PostInputs
from phoenix.serving.loading import CurrentModel, load_announced, load_first
from phoenix.serving.model_topic import ModelWatcher, wait_for_model_records
from thunder_ingest.events import REPLY, REPOST, ModelPointer, Post, PostEmbedding, key_of_id, pack, unpack_post
from thunder_ingest.events.text import padded_tokens
from thunder_ingest.posts.table import state_of

log = logging.getLogger(__name__)

TOPIC = "thunder-posts"
FLOW = "flows.embeddings"
MAX_DELETIONS: Final = 200_000
"""Deletions whose times are kept, the newest: some 30 MB."""
BACKFILL_MESSAGES = 500
"""Largest batch of the backfill in a turn; it delays new messages by some hundredths of a second."""
POLL_S = 0.5
"""Longest wait for a record of `models`."""
RETRY_S = 30.0
"""Time between two attempts to load an unusable model: a checkpoint may arrive after its announcement."""


class EmbeddingTask(NamedTuple):
    """A batch of posts, and the models that embed it, in the order in which their vectors are written."""

    batch: Batch
    models: tuple[Phoenix, ...]


class Progress(NamedTuple):
    """The state of a partition in the recovery store. Stores hold the name of this class and the order of its fields.

    Attributes:
        next_offset: the offset to resume from; None before the first message.
        version: version of the model whose vectors all posts have, or are getting.
        announced_at: time of the announcement of that model, epoch ms. A second announcement of one version starts
            another backfill: it overwrites vectors that another model wrote in between, after the last snapshot.
        backfill_offset: the next offset of the backfill; None if all posts have their vectors.

    """

    next_offset: int | None
    version: str
    announced_at: int
    backfill_offset: int | None


class EmbeddingModel:
    """The current model, for all partitions of a process. One thread replaces `current` as a whole; others read it."""

    def __init__(self, current: CurrentModel) -> None:
        self.current = current
        self._thread: threading.Thread | None = None

    def follow(self, settings: Settings, known: ModelPointer | None) -> None:
        """Start a thread that swaps to each newly announced model until the flow stops."""
        self._thread = threading.Thread(target=self._follow, args=(settings, known), name="models", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for that thread if the flow stops: Python must not exit during a compilation."""
        if self._thread is not None and stopping.is_set():
            self._thread.join()

    def _follow(self, settings: Settings, known: ModelPointer | None) -> None:
        try:
            with closing(ModelWatcher(settings, known, stopping)) as watch:
                tried_s = time.monotonic()
                while not stopping.is_set():
                    pointer = watch.poll(POLL_S)
                    if pointer is None or (pointer == known and not self._is_retry_due(pointer, tried_s)):
                        continue
                    known, tried_s = pointer, time.monotonic()
                    self.swap_to(pointer)
        except Exception as error:  # for example an unreadable partition; a restart by the supervisor may correct it
            exit_now(error)

    def _is_retry_due(self, pointer: ModelPointer, tried_s: float) -> bool:
        return self.current.at < pointer.at and time.monotonic() - tried_s > RETRY_S

    def swap_to(self, pointer: ModelPointer) -> None:
        """Load and compile a model, and make it the current one; log an unusable model and keep the current one."""
        try:
            model = load_announced(pointer, self.current.model)
            model.warm_up(parts=("embed",))
        except Exception as error:  # of any kind: the current model continues
            log.error("%s; posts still get vectors of %s", error, self.current.model.version)
        else:
            self.current = CurrentModel(model, pointer.at)
            return_freed_memory()


class PostSource(FixedPartitionedSource[EmbeddingTask, Progress]):
    """The partitions of `thunder-posts`, each with its backfill."""

    def __init__(self, settings: Settings, model: EmbeddingModel) -> None:
        self._model, self._overlap_s = model, settings.swap_overlap_ms / 1000
        self._source = KafkaSource(settings, TOPIC, FLOW)
        self._backfill = KafkaSource(settings, TOPIC, FLOW, BACKFILL_MESSAGES)

    def list_parts(self) -> list[str]:
        """Name the partitions of the topic; the names are keys of the recovery store."""
        return self._source.list_parts()

    def build_part(self, step_id: str, for_part: str, resume_state: Progress | int | None) -> "Partition":
        """Resume a partition; stores older than model swaps hold only its offset."""
        known = resume_state if isinstance(resume_state, Progress) else Progress(resume_state, "", 0, None)
        return Partition(
            for_part,
            self._source.build_part(step_id, for_part, known.next_offset),
            lambda offset: self._backfill.build_part(step_id, for_part, offset or None),
            self._model,
            known,
            self._overlap_s,
        )


class Partition(StatefulSourcePartition[EmbeddingTask, Progress]):
    """One partition: the new messages, and after them the backfill.

    Args:
        name: for the log.
        live: reads the new messages.
        open_backfill: opens another reader of the same partition, at an offset.
        model: the current one.
        known: progress from the recovery store.
        overlap_s: time after a backfill during which new posts also get vectors of the previous model.

    """

    def __init__(
        self,
        name: str,
        live: StatefulSourcePartition[Batch, int],
        open_backfill: Callable[[int], StatefulSourcePartition[Batch, int]],
        model: EmbeddingModel,
        known: Progress,
        overlap_s: float,
    ) -> None:
        self._name, self._live, self._open_backfill = name, live, open_backfill
        self._model, self._overlap_s = model, overlap_s
        self._next_offset = known.next_offset
        self._current = model.current
        self._previous: Phoenix | None = None
        self._overlap_ends_s = 0.0
        self._reader: StatefulSourcePartition[Batch, int] | None = None
        self._backfill_offset: int | None = None
        is_same = (known.version, known.announced_at) == (self._current.model.version, self._current.at)
        if known.next_offset is not None and (not is_same or known.backfill_offset is not None):
            self._start_backfill(known.backfill_offset or 0 if is_same else 0)

    def next_batch(self) -> list[EmbeddingTask]:
        """Return the new messages, then a batch of the backfill."""
        self._follow_model()
        batches = self._live.next_batch()
        for batch in batches:
            self._next_offset = _after(batch, self._next_offset)
        tasks = [EmbeddingTask(batch, self._models()) for batch in batches]
        return tasks + [EmbeddingTask(batch, (self._current.model,)) for batch in self._read_backfill()]

    def next_awake(self) -> datetime | None:
        """Return the live reader's time; an idle partition gives the backfill a turn every few milliseconds."""
        return self._live.next_awake()

    def snapshot(self) -> Progress:
        """Return the progress of both readers."""
        return Progress(self._live.snapshot(), self._current.model.version, self._current.at, self._backfill_offset)

    def close(self) -> None:
        """Close both readers."""
        self._live.close()
        self._close_backfill()
        self._model.join()

    def _models(self) -> tuple[Phoenix, ...]:
        return (self._current.model,) if self._previous is None else (self._previous, self._current.model)

    def _follow_model(self) -> None:
        """Start a backfill if the current model has changed; drop the previous model after the overlap."""
        if self._model.current is not self._current:
            if self._backfill_offset is None:  # an unfinished model is not kept: workers still serve the previous one
                self._previous = self._current.model
            self._current = self._model.current
            if self._previous is not None and self._previous.version == self._current.model.version:
                self._previous = None
            self._close_backfill()
            self._start_backfill(0)
        if self._previous is not None and self._backfill_offset is None and time.monotonic() > self._overlap_ends_s:
            self._previous = None

    def _start_backfill(self, offset: int) -> None:
        log.info("%s: backfill of vectors of model %s, from offset %d", self._name, self._current.model.version, offset)
        self._backfill_offset = offset

    def _read_backfill(self) -> Sequence[Batch]:
        """Return the next bounded batch of the backfill, which ends at the offset of the live reader."""
        if self._backfill_offset is None:
            return ()
        if self._backfill_offset >= (self._next_offset or 0):
            log.info("%s: all posts have vectors of model %s", self._name, self._current.model.version)
            self._close_backfill()
            self._backfill_offset, self._overlap_ends_s = None, time.monotonic() + self._overlap_s
            return ()
        if self._reader is None:
            self._reader = self._open_backfill(self._backfill_offset)
        batches = [batch for batch in self._reader.next_batch() if batch.messages]
        for batch in batches:
            self._backfill_offset = _after(batch, self._backfill_offset)
        return batches

    def _close_backfill(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _after(batch: Batch, before: int | None) -> int | None:
    """Return the offset after a batch; `before` if the batch is empty."""
    return (batch.messages[-1].offset() or 0) + 1 if batch.messages else before


class Embed:
    """Makes the records of a task.

    It keeps the times of deletions: after a change of the number of partitions, the tombstone of a post and its
    earlier records lie in different partitions, and may be read in any order.
    """

    def __init__(self) -> None:
        self._deleted: dict[bytes, int] = {}  # oldest first

    def __call__(self, task: EmbeddingTask) -> list[Record]:
        """Return one record for each post and model, made from the post's newest state in the batch.

        A post that an edit turns into a reply or a repost may have a vector: it gets a tombstone.
        """
        messages = [each for each in task.batch.messages if each.error() is None]  # others were logged and are skipped
        newest = dict(readable("thunder-posts", messages, self._read))
        gone, posts = [key for key, post in newest.items() if post is None], []
        for key, post in newest.items():
            if post is not None and post.at > self._deleted.get(key, 0):
                posts.append(post)
            elif post is not None:
                gone.append(key)
        return _records(posts, gone, task.models)

    def _read(self, message: Message) -> tuple[bytes, Post | None]:
        """The key of a message and its post, None for a tombstone; raises one of UNREADABLE."""
        key, value = _key(message), message.value()
        int(key)
        if value is None:
            self._note_deletion(message)
        return key, None if value is None else unpack_post(value)

    def _note_deletion(self, message: Message) -> None:
        state = state_of(None, cast(Headers | None, message.headers()))
        if state is not None and state.deleted_at:
            self._deleted.pop(_key(message), None)
            self._deleted[_key(message)] = state.deleted_at
            if len(self._deleted) > MAX_DELETIONS:
                del self._deleted[next(iter(self._deleted))]


def _records(posts: Sequence[Post], gone: list[bytes], models: Sequence[Phoenix]) -> list[Record]:
    live = [post for post in posts if post.is_live and post.kind not in (REPLY, REPOST)]
    gone += [key_of_id(post.post_id) for post in posts if post.kind in (REPLY, REPOST) and post.at > post.created_at]
    return [Record("post-embeddings", key, None) for key in gone] + _embedded(live, models)


def _embedded(posts: list[Post], models: Sequence[Phoenix]) -> list[Record]:
    if not posts:
        return []
    inputs = inputs_of(posts)
    return [
        Record("post-embeddings", key_of_id(post.post_id), _packed(post.post_id, model.version, vector))
        for model in models
        for post, vector in zip(posts, model.embed_posts(inputs), strict=True)
    ]


def _packed(post_id: int, version: str, vector: np.ndarray) -> bytes:
    return pack(PostEmbedding(post_id=post_id, model_version=version, vector=vector.astype("<f4").tobytes()))


def _key(message: Message) -> bytes:
    key = message.key()
    return key.encode() if isinstance(key, str) else key or b""


def inputs_of(posts: list[Post]) -> PostInputs:
    """Return the candidate tower's inputs: author_id i8[n], tokens u4[n, tokens], video_ms i4[n], photos i4[n]."""
    return PostInputs(
        author_id=np.array([post.author_id for post in posts], np.int64),
        tokens=padded_tokens([post.tokens for post in posts]),
        video_ms=np.array([post.video_ms for post in posts], np.int32),
        photos=np.array([post.photos for post in posts], np.int32),
    )


def build_flow(source: Source[EmbeddingTask], sink: Sink[list[Record]]) -> Dataflow:
    """Return the dataflow with its steps."""
    flow = Dataflow("embeddings")
    batches = op.input("thunder-posts", flow, source)
    vectors = op.map("embed", batches, Embed())
    op.output("post-embeddings", vectors, sink)
    return flow


def flow() -> Dataflow:
    """Return the flow for the servers of the settings; its model is compiled before the first post."""
    settings = start([TOPIC, "post-embeddings", "models"])
    pointers = wait_for_model_records(settings, stopping)
    try:
        first = load_first(pointers, settings.checkpoint, settings.model, settings.model_seed)
    except ValueError as error:
        fail(f"FORYOU_CHECKPOINT, FORYOU_MODEL: {error}", 2)
    first.model.warm_up(parts=("embed",))
    return_freed_memory()
    model = EmbeddingModel(first)
    model.follow(settings, pointers[0] if pointers else None)
    return build_flow(PostSource(settings, model), KafkaSink(settings))
