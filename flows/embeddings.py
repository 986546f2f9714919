"""thunder-posts ▸ post-embeddings: the candidate tower's vector of every live post, a tombstone for what is gone.

Replies and reposts have none: out of the network nobody is shown them, so they would only take others' places among
what is retrieved. The published corpus leaves them out too.

Run with `python -m flows embeddings --recovery DIR`. A vector depends on its post and on the model alone.
When another model is announced (`models`), it is loaded and compiled beside the stream; then each partition is read
again from its beginning, a bounded batch a turn, behind what has just come. What is read again may be older than what
has been written meanwhile, so it is read again up to where the partition is: whatever was written out of order on the
way, the newest state of each post is written after it. How far that is stands in the recovery store.

Until then, and for `swap_overlap_ms` after it, posts that come get vectors of both models, the new one's last, which is
the one that compaction keeps: workers find them, whichever model they serve. A flow that is started anew writes only
those of the model that is current.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from typing import NamedTuple

import bytewax.operators as op
import numpy as np
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, Source, StatefulSourcePartition
from bytewax.outputs import Sink
from confluent_kafka import Message

from flows.process import exit_now, fail, start, stopping
from flows.sinks import KafkaSink
from flows.sources import Batch, KafkaSource
from infra.ports.producer import Record
from infra.ports.settings import Settings
from phoenix.serving.engine import Phoenix, PostInputs
from phoenix.serving.loading import Served, load_announced, served_first
from phoenix.serving.model_topic import ModelWatcher, wait_for_model_records
from thunder_ingest.events import REPLY, REPOST, ModelPointer, Post, PostEmbedding, key_of_id, pack, unpack_post
from thunder_ingest.events.text import padded_tokens

log = logging.getLogger(__name__)

TOPIC = "thunder-posts"
FLOW = "flows.embeddings"
AGAIN_MESSAGES = 500
"""Read again in one turn at most: what has come meanwhile waits some hundredths of a second for them."""
WATCH_S = 0.5
AGAIN_S = 30.0
"""Between two tries of a model that cannot be used: a checkpoint may be longer on its way than what announces it."""


class Work(NamedTuple):
    """Posts, and the models whose vectors they are to have, in the order in which these are written."""

    batch: Batch
    models: tuple[Phoenix, ...]


class Progress(NamedTuple):
    """What the recovery store has of a partition.

    Attributes:
        next: the offset to go on from; None before anything was read.
        version: of the model whose vectors all posts have, or are getting.
        at: when that was announced. A model that is announced once more is another one here: what was written after
            the last snapshot, and of another model in between, is then written over.
        again: the offset from which posts are still to be read again; None where all have their vectors.

    """

    next: int | None
    version: str
    at: int
    again: int | None


class Model:
    """The model that is current, known to all partitions of a process; `served` is replaced as a whole."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self._thread: threading.Thread | None = None

    def follow(self, settings: Settings, known: ModelPointer | None) -> None:
        """Go over to whatever is announced, in a thread of its own, until the flow is to end."""
        self._thread = threading.Thread(target=self._follow, args=(settings, known), name="models", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for that thread, once the flow is to end: Python must not end while something is compiled."""
        if self._thread is not None and stopping.is_set():
            self._thread.join()

    def _follow(self, settings: Settings, known: ModelPointer | None) -> None:
        try:
            with closing(ModelWatcher(settings, known, stopping)) as watch:
                tried_s = time.monotonic()
                while not stopping.is_set():
                    pointer = watch.poll(WATCH_S)
                    if pointer is None or (pointer == known and not self._is_to_try(pointer, tried_s)):
                        continue
                    known, tried_s = pointer, time.monotonic()
                    self.take(pointer)
        except Exception as error:  # as where a partition cannot be read: whoever starts the flow anew mends it
            exit_now(error)

    def _is_to_try(self, pointer: ModelPointer, tried_s: float) -> bool:
        return self.served.at < pointer.at and time.monotonic() - tried_s > AGAIN_S

    def take(self, pointer: ModelPointer) -> None:
        """Load a model and compile it, and make it the current one; one that cannot be used is logged."""
        try:
            model = load_announced(pointer, self.served.model)
            model.warm_up(parts=("embed",))
        except Exception as error:  # of whatever kind: posts go on getting vectors of the model that there is
            log.error("%s; posts go on with %s", error, self.served.model.version)
        else:
            self.served = Served(model, pointer.at)


class Posts(FixedPartitionedSource[Work, Progress]):
    """The partitions of `thunder-posts`, each with what is to be done again for another model."""

    def __init__(self, settings: Settings, model: Model) -> None:
        self._model, self._overlap_s = model, settings.swap_overlap_ms / 1000
        self._source = KafkaSource(settings, TOPIC, FLOW)
        self._again = KafkaSource(settings, TOPIC, FLOW, AGAIN_MESSAGES)

    def list_parts(self) -> list[str]:
        """Name the partitions of the topic: keys of the recovery store."""
        return self._source.list_parts()

    def build_part(self, step_id: str, for_part: str, resume_state: Progress | int | None) -> "Partition":
        """Go on with a partition; a store of before models could be swapped has its offset alone."""
        known = resume_state if isinstance(resume_state, Progress) else Progress(resume_state, "", 0, None)
        return Partition(
            for_part,
            self._source.build_part(step_id, for_part, known.next),
            lambda offset: self._again.build_part(step_id, for_part, offset or None),
            self._model,
            known,
            self._overlap_s,
        )


class Partition(StatefulSourcePartition[Work, Progress]):
    """One partition: what comes, and behind it what is read again.

    Args:
        name: for the log.
        live: reads what comes.
        reread: makes another reader of the same partition, from an offset.
        model: the current one.
        known: how far it was.
        overlap_s: how long posts get vectors of the model before, after all have those of the current one.

    """

    def __init__(
        self,
        name: str,
        live: StatefulSourcePartition[Batch, int],
        reread: Callable[[int], StatefulSourcePartition[Batch, int]],
        model: Model,
        known: Progress,
        overlap_s: float,
    ) -> None:
        self._name, self._live, self._reread, self._model, self._overlap_s = name, live, reread, model, overlap_s
        self._next = known.next
        self._served = model.served
        self._before: Phoenix | None = None
        self._ends_s = 0.0
        self._reader: StatefulSourcePartition[Batch, int] | None = None
        self._again: int | None = None
        is_same = (known.version, known.at) == (self._served.model.version, self._served.at)
        if known.next is not None and (not is_same or known.again is not None):
            self._read_again_from(known.again or 0 if is_same else 0)

    def next_batch(self) -> list[Work]:
        """What has come, then what is read again."""
        self._follow()
        batches = self._live.next_batch()
        for batch in batches:
            self._next = _after(batch, self._next)
        works = [Work(batch, self._models()) for batch in batches]
        return works + [Work(batch, (self._served.model,)) for batch in self._read_again()]

    def next_awake(self) -> datetime | None:
        """As the stream has it: an idle one lets what is read again have a turn every few milliseconds."""
        return self._live.next_awake()

    def snapshot(self) -> Progress:
        """How far both are."""
        return Progress(self._live.snapshot(), self._served.model.version, self._served.at, self._again)

    def close(self) -> None:
        """Read no more: the flow is to end."""
        self._live.close()
        self._end_reading_again()
        self._model.join()

    def _models(self) -> tuple[Phoenix, ...]:
        return (self._served.model,) if self._before is None else (self._before, self._served.model)

    def _follow(self) -> None:
        """Go over to another model, if one has become current; let go of the one before when its time is over."""
        if self._model.served is not self._served:
            if self._again is None:  # else workers still have the one before: this one was never whole
                self._before = self._served.model
            self._served = self._model.served
            if self._before is not None and self._before.version == self._served.model.version:
                self._before = None
            self._end_reading_again()
            self._read_again_from(0)
        if self._before is not None and self._again is None and time.monotonic() > self._ends_s:
            self._before = None

    def _read_again_from(self, offset: int) -> None:
        log.info("%s: posts get vectors of model %s, from offset %d", self._name, self._served.model.version, offset)
        self._again = offset

    def _read_again(self) -> Sequence[Batch]:
        """The next bounded batch, if any is left: none that the stream has not passed needs to be looked at."""
        if self._again is None:
            return ()
        if self._again >= (self._next or 0):
            log.info("%s: all posts have vectors of model %s", self._name, self._served.model.version)
            self._end_reading_again()
            self._again, self._ends_s = None, time.monotonic() + self._overlap_s
            return ()
        if self._reader is None:
            self._reader = self._reread(self._again)
        batches = [batch for batch in self._reader.next_batch() if batch.messages]
        for batch in batches:
            self._again = _after(batch, self._again)
        return batches

    def _end_reading_again(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _after(batch: Batch, before: int | None) -> int | None:
    """The offset that follows a batch."""
    return (batch.messages[-1].offset() or 0) + 1 if batch.messages else before


def embed(work: Work) -> list[Record]:
    """One record a post and model: the post's newest state in the batch decides.

    What is edited into a reply or a repost may have been something else, with a vector, before.
    """
    newest = {_key(message): message.value() for message in work.batch.messages}
    posts = [unpack_post(value) for value in newest.values() if value is not None]
    live = [post for post in posts if post.is_live and post.kind not in (REPLY, REPOST)]
    gone = [key for key, value in newest.items() if value is None]
    gone += [key_of_id(post.post_id) for post in posts if post.kind in (REPLY, REPOST) and post.at > post.created_at]
    return [Record("post-embeddings", key, None) for key in gone] + _embedded(live, work.models)


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
    """The candidate tower's inputs: author_id i8[n], tokens u4[n, T], video_ms i4[n], photos i4[n]."""
    return PostInputs(
        author_id=np.array([post.author_id for post in posts], np.int64),
        tokens=padded_tokens([post.tokens for post in posts]),
        video_ms=np.array([post.video_ms for post in posts], np.int32),
        photos=np.array([post.photos for post in posts], np.int32),
    )


def build_flow(source: Source[Work], sink: Sink[list[Record]]) -> Dataflow:
    """Lay out the steps."""
    flow = Dataflow("embeddings")
    batches = op.input("thunder-posts", flow, source)
    vectors = op.map("embed", batches, embed)
    op.output("post-embeddings", vectors, sink)
    return flow


def flow() -> Dataflow:
    """The flow on the servers of the settings, its model compiled before the first post."""
    settings = start([TOPIC, "post-embeddings", "models"])
    pointers = wait_for_model_records(settings, stopping)
    try:
        served = served_first(pointers, settings.checkpoint, settings.model, settings.model_seed)
    except ValueError as error:
        fail(f"FORYOU_CHECKPOINT, FORYOU_MODEL: {error}", 2)
    served.model.warm_up(parts=("embed",))
    model = Model(served)
    model.follow(settings, pointers[0] if pointers else None)
    return build_flow(Posts(settings, model), KafkaSink(settings))
