"""The embeddings flow: vectors of live posts, model swaps, backfills and kills."""

import pickle
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from bytewax.inputs import StatefulSourcePartition
from bytewax.testing import TestingSink, TestingSource, run_main
from confluent_kafka import KafkaError
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from flows.embeddings import Embed, EmbeddingModel, EmbeddingTask, Partition, PostSource, Progress, build_flow
from flows.sources import Batch
from infra.ops.model_command import use
from infra.ports.kafka_admin import create_topics
from infra.ports.message import MessageCopy
from infra.ports.producer import Record
from infra.ports.settings import load
from infra.stack.embedded import EmbeddedKafka
from phoenix.serving.engine import Phoenix
from phoenix.serving.loading import CurrentModel, load_models
from phoenix.serving.model_topic import announce
from tests.feed_worker.builders import post
from tests.infra.cli.foryou import write
from tests.infra.waiting import eventually
from tests.phoenix.saved import TINY, saved
from thunder_ingest.events import ModelPointer, Post, key_of_id, pack, unpack_embedding


def model_of(number: int) -> Phoenix:
    """A model whose vectors contain its number."""
    made = SimpleNamespace(
        version=f"m-{number}", embed_posts=lambda posts: posts.author_id[:, np.newaxis] * [1.0, number]
    )
    return cast(Phoenix, made)


MODEL = model_of(2)


def message(offset: int, each: Post | int) -> MessageCopy:
    """A post's record, or the tombstone of an id."""
    key = key_of_id(each if isinstance(each, int) else each.post_id)
    value = None if isinstance(each, int) else pack(each)
    return MessageCopy(topic="thunder-posts", partition=0, offset=offset, key=key, value=value)


def embedded(*posts: Post | int) -> dict[bytes | None, Any]:
    """The records that the flow writes for posts, or for tombstones of ids, by key; None for a tombstone."""
    messages = [message(offset, each) for offset, each in enumerate(posts)]
    out: list[list[Record]] = []
    tasks = TestingSource([EmbeddingTask(Batch("thunder-posts", 0, messages), (MODEL,))])
    run_main(build_flow(tasks, TestingSink(out)))
    return {record.key: record.value and unpack_embedding(record.value) for records in out for record in records}


def test_a_live_post_gets_a_vector_and_a_post_that_is_gone_a_tombstone() -> None:
    written = embedded(post(1, 7), post(2, 8, "quote", source_post_id=1), 3)
    assert written.keys() == {b"1", b"2", b"3"}
    assert written[b"3"] is None
    assert (written[b"1"].post_id, written[b"1"].model_version) == (1, "m-2")
    assert np.frombuffer(written[b"2"].vector, "<f4").tolist() == [8.0, 16.0]


def test_only_the_newest_state_of_a_post_in_a_batch_counts() -> None:
    assert embedded(post(1, 7), 1) == {b"1": None}
    assert embedded(1, post(1, 7))[b"1"] is not None


def test_an_unreadable_message_is_skipped() -> None:
    error = KafkaError(KafkaError._BAD_MSG)
    unreadable = MessageCopy(topic="thunder-posts", partition=0, offset=0, error=error)
    messages = [unreadable, message(1, post(1, 7))]
    assert [each.key for each in Embed()(EmbeddingTask(Batch("thunder-posts", 0, messages), (MODEL,)))] == [b"1"]


def test_replies_and_reposts_get_no_vector() -> None:
    assert embedded(post(1, 7, "reply", in_reply_to_post_id=2), post(3, 7, "repost", source_post_id=2)) == {}


def test_a_post_that_an_edit_turns_into_a_reply_gets_a_tombstone() -> None:
    edited = post(1, 7, "reply", in_reply_to_post_id=2)
    edited.at += 1
    assert embedded(edited) == {b"1": None}


def test_the_vector_of_the_current_model_is_written_last() -> None:
    records = Embed()(
        EmbeddingTask(Batch("thunder-posts", 0, [message(0, post(1, 7)), message(1, 2)]), (model_of(1), model_of(2)))
    )
    written = [(each.key, each.value and unpack_embedding(each.value).model_version) for each in records]
    assert written == [(b"2", None), (b"1", "m-1"), (b"1", "m-2")]


class Reader(StatefulSourcePartition[Batch, int]):
    """Reads a log in memory as the Kafka source reads a partition."""

    def __init__(self, log: Sequence[MessageCopy], next_offset: int | None, at_once: int) -> None:
        self._log, self._next, self._at_once, self.closed = log, next_offset, at_once, False

    def next_batch(self) -> list[Batch]:
        assert not self.closed
        messages = [each for each in self._log if (each.offset() or 0) >= (self._next or 0)][: self._at_once]
        if messages:
            self._next = (messages[-1].offset() or 0) + 1
        return [Batch("thunder-posts", 0, messages)]

    def next_awake(self) -> datetime | None:
        return None

    def snapshot(self) -> int:
        return cast(int, self._next)

    def close(self) -> None:
        self.closed = True


class Swapping(RuleBasedStateMachine):
    """Posts are written and deleted, the log is compacted, models are announced, the flow runs and is killed.

    In the end each post has the current model's vector of its last state.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log: list[MessageCopy] = []
        self.written: list[Record] = []
        self.model = EmbeddingModel(CurrentModel(model_of(1), 0))
        self.snapshots: list[Progress | None] = [None, None]
        self.announced = self.published = 0
        self.start()

    def start(self) -> None:
        known = self.snapshots[0]
        resumed = pickle.loads(pickle.dumps(known)) if known else Progress(None, "", 0, None)
        self.partition = Partition(
            "thunder-posts-0",
            Reader(self.log, resumed.next_offset, 3),
            lambda offset: Reader(self.log, offset, 2),
            self.model,
            resumed,
            overlap_s=0.0,
        )

    def process(self) -> None:
        for task in self.partition.next_batch():
            self.written += Embed()(task)

    @rule(post_id=st.integers(1, 4), author=st.integers(1, 9), is_gone=st.booleans())
    def publish(self, post_id: int, author: int, is_gone: bool) -> None:
        self.log.append(message(self.published, post_id if is_gone else post(post_id, author)))
        self.published += 1

    @rule()
    def compact(self) -> None:
        last = {each.key(): each for each in self.log}
        self.log[:] = [each for each in self.log if last[each.key()] is each]

    @rule(turns=st.integers(1, 3))
    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self.process()

    @rule()
    def epoch_ends(self) -> None:
        """Bytewax may resume from a snapshot, or from the next one, once the next one is taken."""
        self.snapshots = [self.snapshots[1], self.partition.snapshot()]

    @rule(number=st.integers(1, 3))
    def announce(self, number: int) -> None:
        self.announced += 1
        self.model.current = CurrentModel(model_of(number), self.announced)

    @rule(is_old=st.booleans())
    def kill(self, is_old: bool) -> None:
        if not is_old:
            self.snapshots[0] = self.snapshots[1]
        self.start()

    @precondition(lambda self: self.log)
    @rule()
    def catch_up(self) -> None:
        for _ in range(2 * len(self.log) + 5):
            self.process()
        assert self.partition.snapshot().backfill_offset is None
        assert self.held() == self.expected()

    def held(self) -> dict[bytes, tuple[str, list[float]]]:
        """The written records after compaction."""
        last = {record.key: record.value for record in self.written}
        found = {key: unpack_embedding(value) for key, value in last.items() if key and value}
        return {key: (each.model_version, np.frombuffer(each.vector, "<f4").tolist()) for key, each in found.items()}

    def expected(self) -> dict[bytes, tuple[str, list[float]]]:
        batch = Batch("thunder-posts", 0, self.log)
        records = {each.key: each.value for each in Embed()(EmbeddingTask(batch, (self.model.current.model,)))}
        vectors = {key: unpack_embedding(value) for key, value in records.items() if key and value}
        return {key: (each.model_version, np.frombuffer(each.vector, "<f4").tolist()) for key, each in vectors.items()}


def test_each_post_ends_with_the_current_models_vector_of_its_last_state() -> None:
    run_state_machine_as_test(
        Swapping, settings=hypothesis_settings(max_examples=300, stateful_step_count=30, deadline=None)
    )


class Flow:
    """A partition on a log in memory."""

    def __init__(self, *posts: Post | int, known: Progress | None = None, overlap_s: float = 60.0) -> None:
        self.log = [message(offset, each) for offset, each in enumerate(posts)]
        self.model = EmbeddingModel(CurrentModel(model_of(1), 0))
        self.readers: list[Reader] = []
        known = known or Progress(None, "", 0, None)
        self.partition = Partition("p", self.reader(known.next_offset), self.reader, self.model, known, overlap_s)

    def reader(self, offset: int | None) -> Reader:
        self.readers.append(Reader(self.log, offset, 2))
        return self.readers[-1]

    def publish(self, *posts: Post | int) -> None:
        self.log += [message(len(self.log) + number, each) for number, each in enumerate(posts)]

    def turns(self, number: int = 1) -> list[tuple[list[int], list[str]]]:
        """For each task with messages: their offsets, and the versions of the models that embed them."""
        tasks = [task for _ in range(number) for task in self.partition.next_batch() if task.batch.messages]
        return [([m.offset() or 0 for m in batch.messages], [m.version for m in models]) for batch, models in tasks]


def test_new_posts_precede_the_backfill_and_get_vectors_of_both_models() -> None:
    flow = Flow(*(post(number) for number in range(1, 4)))
    assert flow.turns(3) == [([0, 1], ["m-1"]), ([2], ["m-1"])]
    flow.model.current = CurrentModel(model_of(2), 1)
    flow.publish(post(4))
    assert flow.turns(3) == [([3], ["m-1", "m-2"]), ([0, 1], ["m-2"]), ([2, 3], ["m-2"])]
    flow.publish(post(5))
    assert flow.turns() == [([4], ["m-1", "m-2"])]
    assert flow.readers[-1].closed


def test_the_previous_model_is_dropped_after_the_overlap() -> None:
    flow = Flow(post(1), overlap_s=0.0)
    flow.turns()
    flow.model.current = CurrentModel(model_of(2), 1)
    flow.turns(3)
    flow.publish(post(2))
    assert flow.turns() == [([1], ["m-2"])]


def test_the_last_complete_model_stays_until_another_one_is_complete() -> None:
    flow = Flow(*(post(number) for number in range(1, 9)))
    flow.turns(5)
    for number in (2, 3):
        flow.model.current = CurrentModel(model_of(number), number)
        flow.turns()
    flow.publish(post(9))
    assert flow.turns()[0] == ([8], ["m-1", "m-3"])


def test_a_flow_that_resumes_during_a_backfill_finishes_it_with_the_current_model_only() -> None:
    posts = [post(number) for number in range(1, 6)]
    flow = Flow(*posts, known=Progress(4, "m-1", 0, 2))
    assert flow.turns(4) == [([4], ["m-1"]), ([2, 3], ["m-1"]), ([4], ["m-1"])]
    assert flow.partition.snapshot() == Progress(5, "m-1", 0, None)


@pytest.mark.parametrize("known", [Progress(2, "m-0", 0, None), Progress(2, "m-1", 7, 1), Progress(2, "", 0, None)])
def test_a_flow_that_resumes_after_another_announcement_backfills_all_posts(known: Progress) -> None:
    assert Flow(post(1), post(2), known=known).turns(2) == [([0, 1], ["m-1"])]


def test_a_flow_that_starts_or_resumes_with_the_same_model_backfills_nothing() -> None:
    assert Flow(post(1), post(2), known=Progress(1, "m-1", 0, None)).turns(3) == [([1], ["m-1"])]
    assert Flow(post(1), post(2)).turns(3) == [([0, 1], ["m-1"])]


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("known", "read"), [(3, {0, 1, 2, 3}), (Progress(3, "m-1", 0, 2), {2, 3}), (Progress(3, "m-1", 0, None), {3})]
)
def test_a_partition_on_a_broker_resumes_from_the_recovery_store(
    tmp_path: Path, known: Progress | int, read: set[int]
) -> None:
    with EmbeddedKafka(tmp_path) as kafka:
        settings = load(kafka=kafka.address, partitions=1)
        create_topics(settings)
        write(settings, *(Record("thunder-posts", b"%d" % number, pack(post(number))) for number in range(1, 5)))
        source, offsets = PostSource(settings, EmbeddingModel(CurrentModel(model_of(1), 0))), set[int]()
        (name,) = source.list_parts()
        partition = source.build_part("thunder-posts", name, known)

        def has_read() -> bool:
            batches = [task.batch for task in partition.next_batch()]
            offsets.update(each.offset() or 0 for batch in batches for each in batch.messages)
            return partition.snapshot() == Progress(4, "m-1", 0, None)

        eventually(has_read)
        partition.close()
    assert offsets == read


@pytest.mark.embedded
def test_a_flow_follows_announced_models_until_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopping, model = threading.Event(), EmbeddingModel(CurrentModel(Phoenix.seeded(TINY, 1), 0))
    monkeypatch.setattr("flows.embeddings.stopping", stopping)
    monkeypatch.setattr("flows.embeddings.RETRY_S", 0.2)
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        settings = load(kafka=kafka.address, partitions=1)
        create_topics(settings)
        model.follow(settings, None)
        announce(settings, "m-9", str(tmp_path / "nowhere"))
        announced = use(settings, saved(tmp_path / "run", seed=2))
        eventually(lambda: model.current.at == announced.at)
        assert model.current.model.version == announced.version

        late = saved(tmp_path / "early", seed=3)
        version = load_models(str(late), "", 0).version
        pointer = announce(settings, version, str(tmp_path / "late"))
        eventually(lambda: version in caplog.text)
        assert model.current.at == announced.at
        late.rename(tmp_path / "late")
        eventually(lambda: model.current.at == pointer.at)
        assert model.current.model.version == version
        stopping.set()
        model.join()
        assert "models" not in {thread.name for thread in threading.enumerate()}


def test_an_unusable_model_is_logged_and_the_current_one_stays(caplog: pytest.LogCaptureFixture) -> None:
    model = EmbeddingModel(CurrentModel(model_of(1), 0))
    model.swap_to(ModelPointer(name="phoenix", version="m-9", location="/nowhere", at=1))
    assert model.current == CurrentModel(model.current.model, 0)
    (record,) = caplog.records
    assert record.getMessage() == (
        "model m-9 was announced and cannot be used: /nowhere contains no checkpoint; "
        "`foryou train --out /nowhere` writes one; posts still get vectors of m-1"
    )
