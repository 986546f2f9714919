"""The Kafka source of a flow, on a real broker."""

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Producer

from flows.sources import Batch, KafkaSource
from infra.ports.consumer import partitions_of
from infra.ports.errors import BrokerUnreachable
from infra.ports.kafka_admin import create_topics
from infra.ports.settings import Settings, load
from infra.stack.embedded import EmbeddedKafka
from tests.infra.waiting import eventually

pytestmark = pytest.mark.embedded


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as kafka:
        settings = load(kafka=kafka.address, partitions=2)
        create_topics(settings)
        yield settings


def write(settings: Settings, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka})
    for value in values:
        producer.produce("posts", key=b"7", value=value, partition=0)
    assert producer.flush(10) == 0


def read(settings: Settings, part: str, resume_at: int | None, messages: int) -> list[Batch]:
    """The batches of a partition up to this number of messages; for 0 up to the first tick."""
    partition = KafkaSource(settings, "posts", "flows.posts").build_part("posts", part, resume_at)
    found = list[Batch]()

    def is_done() -> bool:
        found.extend(partition.next_batch())
        return bool(found) and sum(len(batch.messages) for batch in found) >= messages

    eventually(is_done)
    partition.close()
    return found


def test_a_partial_batch_is_emitted_at_once_and_a_flow_resumes_at_its_offset(settings: Settings) -> None:
    write(settings, b"first")
    (batch,) = [batch for batch in read(settings, "posts-0", None, 1) if batch.messages]
    assert [message.value() for message in batch.messages] == [b"first"]
    write(settings, b"second")
    (batch,) = [batch for batch in read(settings, "posts-0", 1, 1) if batch.messages]
    assert [(message.offset(), message.value()) for message in batch.messages] == [(1, b"second")]


def test_a_flow_waits_for_a_broker_that_is_unreachable_at_its_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([BrokerUnreachable("no reply")])

    def fails_once(*arguments: Any) -> dict[str, list[int]]:
        for error in failures:
            raise error
        return partitions_of(*arguments)

    monkeypatch.setattr("infra.ports.consumer.partitions_of", fails_once)
    assert KafkaSource(settings, "posts", "flows.posts").list_parts() == ["posts-0", "posts-1"]


def test_an_idle_partition_emits_an_empty_batch(settings: Settings) -> None:
    assert read(settings, "posts-1", None, 0) == [Batch("posts", 1, [])]
