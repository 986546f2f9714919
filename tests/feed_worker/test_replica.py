"""A worker's copy of the topics, read from an embedded broker."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from feed_worker.replica import Replica
from infra.clock import clock_of
from infra.embedded import EmbeddedKafka
from infra.kafka import Publisher, Record
from infra.kafka_admin import create_topics
from infra.settings import Settings, load
from phoenix.index import VectorIndex
from tests.thunder_ingest.test_post_store import ids, post
from thunder_ingest.events import key_of_id, pack
from thunder_ingest.post_store import PostStore

WAIT_S = 30.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    directory: Path = tmp_path_factory.mktemp("kafka")
    with EmbeddedKafka(directory) as kafka:
        found = load(kafka=kafka.address, clock="log")
        create_topics(found)
        yield found


def publish(settings: Settings, *records: tuple[int, bytes | None]) -> None:
    publisher = Publisher(settings)
    publisher.publish(Record("thunder-posts", key_of_id(post_id), value) for post_id, value in records)
    publisher.flush()


def test_a_silent_partition_does_not_block_start_up_and_of_several_records_of_a_post_the_last_counts(
    settings: Settings,
) -> None:
    """One post and its edit are on one of the partitions, and every other one of the three topics is empty."""
    publish(settings, (5, pack(post(5, photos=1))), (5, pack(post(5, photos=2))))
    store = PostStore()
    replica = Replica(settings, store, VectorIndex(8), clock_of("log"))
    replica.start()
    try:
        assert replica.caught_up.wait(WAIT_S)
        assert replica.failure is None
        assert store.columns(store.rows_of(ids(5))).photos.tolist() == [2]
        publish(settings, (6, pack(post(6))), (5, pack(post(5, photos=3))), (5, None))
        deadline = time.monotonic() + WAIT_S
        while store.rows_of(ids(6))[0] < 0 or store.rows_of(ids(5))[0] >= 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert np.array_equal(store.rows_of(ids(5)), [-1])
    finally:
        replica.stop()
