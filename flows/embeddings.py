"""thunder-posts ▸ post-embeddings: the candidate tower's vector of every live post, a tombstone for what is gone.

Replies and reposts have none: out of the network nobody is shown them, so they would only take others' places among
what is retrieved. The published corpus leaves them out too.

Run with `python -m bytewax.run flows.embeddings -r DIR -s 1 -b 0`. It keeps no state: a vector depends on its post and
on the model alone.
"""

from collections.abc import Callable

import bytewax.operators as op
import numpy as np
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import Sink
from confluent_kafka import Message

from flows.kafka import Batch, KafkaSink, KafkaSource, start
from infra.kafka import Record
from phoenix.served import served
from phoenix.serving import Phoenix, PostInputs
from thunder_ingest.events import REPLY, REPOST, Post, PostEmbedding, key_of_id, pack, unpack_post
from thunder_ingest.text import padded_tokens


class Embed:
    """Embeds the posts of a batch in one call of the model."""

    def __init__(self, model: Phoenix) -> None:
        self._model = model

    def __call__(self, batch: Batch) -> list[Record]:
        """One record a post: its newest state in the batch decides."""
        newest = {_key(message): message.value() for message in batch.messages}
        posts = [unpack_post(value) for value in newest.values() if value is not None]
        live = [post for post in posts if post.is_live and post.kind not in (REPLY, REPOST)]
        gone = [key for key, value in newest.items() if value is None]
        return [Record("post-embeddings", key, None) for key in gone] + self._embedded(live)

    def _embedded(self, posts: list[Post]) -> list[Record]:
        if not posts:
            return []
        vectors = self._model.embed_posts(inputs_of(posts))
        return [
            Record("post-embeddings", key_of_id(post.post_id), self._value(post.post_id, vector))
            for post, vector in zip(posts, vectors, strict=True)
        ]

    def _value(self, post_id: int, vector: np.ndarray) -> bytes:
        packed = vector.astype("<f4").tobytes()
        return pack(PostEmbedding(post_id=post_id, model_version=self._model.version, vector=packed))


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


def build_flow(source: Source[Batch], sink: Sink[list[Record]], embed: Callable[[Batch], list[Record]]) -> Dataflow:
    """Lay out the steps."""
    flow = Dataflow("embeddings")
    batches = op.input("thunder-posts", flow, source)
    vectors = op.map("embed", batches, embed)
    op.output("post-embeddings", vectors, sink)
    return flow


def flow() -> Dataflow:
    """The flow on the servers of the settings, its model compiled before the first post."""
    settings = start(["thunder-posts", "post-embeddings"])
    try:
        model = served(settings.checkpoint, settings.model, settings.model_seed)
    except ValueError as error:
        raise SystemExit(f"FORYOU_CHECKPOINT, FORYOU_MODEL: {error}") from None
    model.warm_up(parts=("embed",))
    return build_flow(KafkaSource(settings, "thunder-posts", "flows.embeddings"), KafkaSink(settings), Embed(model))
