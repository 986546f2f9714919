"""The replica on a real broker: readiness and freshness."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from feed_worker.replica.reader import VECTORS, Replica, ReplicaState
from infra.ports.clock import WallClock
from infra.ports.kafka_admin import create_topics
from infra.ports.settings import Settings, load
from infra.stack.embedded import EmbeddedKafka
from phoenix.index.retrieval_index import VectorIndex
from tests.infra.waiting import eventually
from thunder_ingest.events import Post, PostCounts, PostEmbedding, key_of_id, pack
from thunder_ingest.posts.store import PostStore
from thunder_ingest.posts.table import STATE_HEADER, changelog, join

pytestmark = pytest.mark.embedded

PARTITIONS = 4
post_ids = itertools.count(1)


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        settings = load(kafka=kafka.address, partitions=PARTITIONS)
        create_topics(settings)
        yield settings


@pytest.fixture
def store() -> PostStore:
    return PostStore()


@pytest.fixture
def replica(settings: Settings, store: PostStore) -> Iterator[Replica]:
    started = Replica(settings, store, VectorIndex(), WallClock(), "served")
    yield started
    started.stop()


def write(settings: Settings, post: Post, partition: int) -> int:
    """Write a single record of one post; returns its id."""
    write_all(settings, (post.post_id, pack(post)), partition=partition)
    return post.post_id


def write_all(
    settings: Settings, *records: tuple[int, bytes | None], partition: int, topic: str = "thunder-posts"
) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka})
    for post_id, value in records:
        producer.produce(topic, key=key_of_id(post_id), value=value, partition=partition)
    assert producer.flush(10) == 0


def new_post() -> Post:
    now_ms = WallClock().now_ms()
    return Post(post_id=next(post_ids), author_id=7, created_at=now_ms, at=now_ms)


def has(store: PostStore, post_id: int) -> bool:
    return bool(store.rows_of(np.array([post_id]))[0] >= 0)


@pytest.mark.parametrize("written", [0, 1, PARTITIONS])
def test_empty_partitions_do_not_block_start_up(settings: Settings, store: PostStore, written: int) -> None:
    there = [write(settings, new_post(), partition) for partition in range(written)]
    replica = Replica(settings, store, VectorIndex(), WallClock(), "served")
    replica.start()
    assert replica.caught_up.wait(30)
    replica.stop()
    assert replica.failure is None
    assert all(has(store, post_id) for post_id in there)


def test_a_single_record_is_applied_without_waiting_for_a_full_batch(
    settings: Settings, store: PostStore, replica: Replica
) -> None:
    replica.start()
    assert replica.caught_up.wait(30)
    for partition in range(PARTITIONS):  # one partition at a time, with no records in the others
        post_id = write(settings, new_post(), partition)
        eventually(lambda post_id=post_id: has(store, post_id))  # type: ignore[misc]


def test_the_last_record_of_a_post_counts(settings: Settings, store: PostStore, replica: Replica) -> None:
    edited, deleted, last = new_post(), new_post(), new_post()
    edits = [(edited.post_id, pack(structs.replace(edited, photos=photos))) for photos in (1, 2, 3)]
    gone = (deleted.post_id, pack(deleted)), (deleted.post_id, None)
    write_all(settings, *edits, *gone, (last.post_id, pack(last)), partition=0)
    replica.start()
    eventually(lambda: has(store, last.post_id))
    assert store.columns(store.rows_of(np.array([edited.post_id]))).photos.tolist() == [3]
    assert not has(store, deleted.post_id)


def test_vectors_of_other_models_take_no_memory_and_may_have_another_width(
    settings: Settings, store: PostStore
) -> None:
    index = VectorIndex()
    records = embedded(1, "next", 0.6, 0.8), embedded(2, "served", 1), embedded(3, "next", 0.8, 0.6)
    write_all(settings, *records, partition=0, topic="post-embeddings")
    replica = Replica(settings, store, index, WallClock(), "served")
    replica.start()
    assert replica.caught_up.wait(30)
    replica.stop()
    assert replica.failure is None
    assert index.holds(np.array([1, 2, 3])).tolist() == [False, True, False]


def embedded(post_id: int, version: str, *vector: float) -> tuple[int, bytes]:
    record = PostEmbedding(post_id=post_id, model_version=version, vector=np.array(vector, "<f4").tobytes())
    return post_id, pack(record)


def test_the_vectors_of_another_model_are_collected_from_the_beginning_and_dropped(
    settings: Settings, store: PostStore
) -> None:
    index = VectorIndex()
    for partition in range(PARTITIONS):
        own = range(partition + 1, 9, PARTITIONS)
        records = [each for id_ in own for each in (embedded(id_, "served", 1), embedded(id_, "next", 0.6, 0.8))]
        write_all(settings, *records, partition=partition, topic="post-embeddings")
    write_all(settings, (8, None), partition=3, topic="post-embeddings")
    replica = Replica(settings, store, index, WallClock(), "served")
    replica.start()
    assert replica.caught_up.wait(30)
    assert (index.count("served"), index.count("next")) == (7, 0)
    collected = replica.collect_vectors("next")
    assert collected.wait(30)
    assert (index.count("served"), index.count("next")) == (7, 7)
    write_all(settings, embedded(9, "served", 1), embedded(9, "next", 1, 0), (1, None), partition=0, topic=VECTORS)
    eventually(lambda: index.holds(np.arange(1, 12)).tolist() == [False, *[True] * 6, False, True, False, False])
    expected = [[np.float32(0.6), np.float32(0.8)], [1, 0], [0, 0]]
    eventually(lambda: index.vectors(np.array([2, 9, 1]), "next").tolist() == expected)
    assert index.vectors(np.array([9, 8, 1]), "served").tolist() == [[1], [0], [0]]
    replica.drop_vectors("served")
    eventually(lambda: not index.count("served"))
    write_all(settings, embedded(10, "served", 1), embedded(11, "next", 0, 1), partition=0, topic=VECTORS)
    eventually(lambda: index.count("next") == 8)
    assert index.count("served") == 0
    replica.stop()
    assert replica.failure is None


def test_a_replica_that_has_caught_up_has_the_counts_of_all_posts(
    settings: Settings, store: PostStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thunder_ingest.counts.early_counts.MAX_POSTS", 8)
    posts = [new_post() for _ in range(2_000)]
    gone, back = [new_post().post_id for _ in range(2_000)], posts[0].post_id
    totals = {id_: PostCounts(post_id=id_, at=1, totals=[id_]) for id_ in [*gone, *(each.post_id for each in posts)]}
    write_all(settings, *((id_, pack(each)) for id_, each in totals.items()), partition=0, topic="post-counts")
    write_all(settings, (gone[0], None), (back, None), partition=0, topic="post-counts")
    for partition in range(PARTITIONS):
        of_partition = posts[partition::PARTITIONS]
        write_all(settings, *((each.post_id, pack(each)) for each in of_partition), partition=partition)
    replica = Replica(settings, store, VectorIndex(), WallClock(), "served")
    replica.start()
    assert replica.caught_up.wait(30)
    known = store.columns(store.rows_of(np.array([each.post_id for each in posts]))).totals[:, 0]
    assert known.tolist() == [0, *(each.post_id for each in posts[1:])]
    write_all(settings, (back, pack(totals[back])), partition=0, topic="post-counts")
    eventually(lambda: store.columns(store.rows_of(np.array([back]))).totals[0, 0] == back)
    replica.stop()


@given(
    log=st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["served", "next", None])), max_size=30),
    known=st.integers(0, 30),
    steps=st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=30),
)
def test_a_backfill_in_any_interleaving_ends_with_the_newest_vectors_of_each_model(
    log: list[tuple[int, str | None]], known: int, steps: list[tuple[bool, int]]
) -> None:
    """The main consumer and the backfill interleave in one thread until the backfill reaches the main consumer."""
    records = [
        (key_of_id(post_id), None if version is None else embedded(post_id, version, number + 1.0)[1])
        for number, (post_id, version) in enumerate(log)
    ]
    copies, first, second = ReplicaState(PostStore(), VectorIndex(), WallClock(), ("served",)), min(known, len(log)), 0
    copies.apply({VECTORS: records[:first]})
    copies.versions = ("served", "next")
    for is_first, count in [*steps, (True, len(log))]:
        if is_first:
            copies.apply({VECTORS: records[first : first + count]})
            first = min(first + count, len(log))
        elif second < first:
            copies.apply_vectors(records[second : second + count], ["next"])
            second += count
    copies.apply_vectors(records[second:], ["next"])
    for version in copies.versions:
        expected = dict[int, float]()
        for number, (post_id, its) in enumerate(log):
            if its is None:
                expected.pop(post_id, None)
            elif its == version:
                expected[post_id] = number + 1.0
        held = {id_: copies.index.vectors(np.array([id_]), version).ravel().tolist() for id_ in range(1, 5)}
        assert {id_: vector for id_, vector in held.items() if any(vector)} == {
            id_: [value] for id_, value in expected.items()
        }


def test_progress_is_reported_until_the_replica_has_caught_up(settings: Settings, store: PostStore) -> None:
    for _ in range(3):
        write(settings, new_post(), partition=1)
    replica = Replica(settings, store, VectorIndex(), WallClock(), "served")
    waits_for = [replica.waits_for]
    replica.start()
    assert replica.caught_up.wait(30)
    waits_for.append(replica.waits_for)
    replica.stop()
    assert waits_for == ["reading the topics of posts; left are all topics", None]


# --- partitions that were added -------------------------------------------------------------------------------------


def deletion(post: Post) -> tuple[bytes, bytes | None]:
    """The tombstone of a post, as the replica has it: the key, and the state in the header."""
    key, value, headers = changelog(join(post, Post(post_id=post.post_id, author_id=0, deleted_at=post.at + 1)))
    assert value is None
    return key, dict(headers or ())[STATE_HEADER]


@pytest.mark.parametrize("batches", [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0], [2, 0, 1]])
def test_a_deleted_post_stays_deleted_in_any_order_of_its_partitions(batches: list[int]) -> None:
    post, label = new_post(), new_post()
    spam = structs.replace(label, labels={"spam": label.at})
    posts: list[list[tuple[bytes | None, bytes | None]]] = [
        [(key_of_id(post.post_id), pack(post)), (key_of_id(label.post_id), pack(label))],
        [deletion(post)],
        [(key_of_id(label.post_id), pack(spam))],
    ]
    in_order = [posts[place] for place in batches]
    vectors = [(key_of_id(post_id), embedded(post_id, "served", 1)[1]) for post_id in (post.post_id, label.post_id)]
    for split in (in_order, [[record for some in in_order for record in some]]):
        state = ReplicaState(PostStore(), VectorIndex(), WallClock(), ("served",))
        for some in split:
            state.apply({"thunder-posts": some})
        state.apply({VECTORS: vectors})
        assert not has(state.store, post.post_id)
        columns = state.store.columns(state.store.rows_of(np.array([label.post_id])))
        assert state.store.label_names(int(columns.labels[0])) == ["spam"]
        assert state.index.holds(np.array([post.post_id, label.post_id])).tolist() == [False, True]


def test_a_running_replica_reads_partitions_that_are_added(
    settings: Settings, store: PostStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The embedded broker cannot add partitions: the replica starts as if there were fewer."""
    monkeypatch.setattr("feed_worker.replica.reader.EXPIRE_EVERY_S", 0.2)
    monkeypatch.setattr("feed_worker.replica.reader.partitions_of", lambda _, topics: {topic: [0] for topic in topics})
    replica = Replica(settings, store, VectorIndex(), WallClock(), "served")
    first, second = new_post(), new_post()
    write(settings, first, 0)
    replica.start()
    eventually(lambda: has(store, first.post_id))
    write(settings, second, 2)
    eventually(lambda: has(store, second.post_id))
    replica.stop()
    followed = ("thunder-posts", "accounts")
    assert {f"{topic}-{partition}" for topic in followed for partition in range(PARTITIONS)} == replica.positions.keys()
