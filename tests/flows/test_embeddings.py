from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from bytewax.testing import TestingSink, TestingSource, run_main
from confluent_kafka import Message

from flows.embeddings import Embed, build_flow
from flows.kafka import Batch
from infra.kafka import Record
from tests.feed_worker.builders import post
from thunder_ingest.events import Post, key_of_id, pack, unpack_embedding

MODEL = cast(Any, SimpleNamespace(version="m-1", embed_posts=lambda posts: posts.author_id[:, np.newaxis] * [1.0, 2.0]))


def embedded(*posts: Post | int) -> dict[bytes | None, Any]:
    """What the flow writes for posts, or for tombstones of ids: by key, the record, or None."""
    messages = [
        Message(
            topic="thunder-posts",
            partition=0,
            offset=offset,
            key=key_of_id(each if isinstance(each, int) else each.post_id),
            value=None if isinstance(each, int) else pack(each),
        )
        for offset, each in enumerate(posts)
    ]
    out: list[list[Record]] = []
    batches = TestingSource([Batch("thunder-posts", 0, messages)])
    run_main(build_flow(batches, TestingSink(out), Embed(MODEL)))
    return {record.key: record.value and unpack_embedding(record.value) for records in out for record in records}


def test_a_post_gets_a_vector_of_the_models_version_and_what_is_gone_a_tombstone() -> None:
    written = embedded(post(1, 7), post(2, 8, "quote", source_post_id=1), 3)
    assert written.keys() == {b"1", b"2", b"3"}
    assert written[b"3"] is None
    assert (written[b"1"].post_id, written[b"1"].model_version) == (1, "m-1")
    assert np.frombuffer(written[b"2"].vector, "<f4").tolist() == [8.0, 16.0]


def test_the_newest_state_of_a_batch_decides() -> None:
    assert embedded(post(1, 7), 1) == {b"1": None}
    assert embedded(1, post(1, 7))[b"1"] is not None


def test_what_nobody_is_shown_out_of_the_network_gets_no_vector() -> None:
    assert embedded(post(1, 7, "reply", in_reply_to_post_id=2), post(3, 7, "repost", source_post_id=2)) == {}
