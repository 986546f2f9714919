from types import SimpleNamespace

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from infra.ports.errors import BrokerUnreachable
from infra.ports.kafka_admin import _state, admin, create_topics, describe, ends_of, ensure_reachable, lag
from infra.ports.kafka_config import consumer_config, group
from infra.ports.settings import Settings, load
from infra.ports.topics import TOPICS

pytestmark = pytest.mark.embedded


def publish_numbers(settings: Settings, topic: str, partition: int, count: int) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka})
    for number in range(count):
        producer.produce(topic, b"%d" % number, partition=partition)
    assert producer.flush(10) == 0


def commit(settings: Settings, name: str, topic: str, partition: int, offset: int) -> None:
    consumer = Consumer(consumer_config(settings, group(settings, name)))
    consumer.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)
    consumer.close()


def test_topics_are_created_once_with_the_wanted_partitions_and_policy(servers: Settings) -> None:
    assert create_topics(servers) == []
    states = describe(servers)
    assert [state.name for state in states] == list(TOPICS)
    assert {state.partitions for state in states} == {servers.partitions}
    assert [state.problem for state in states if state.problem] == []


def test_a_missing_topic_is_described_with_its_remedy(servers: Settings) -> None:
    client = admin(servers)
    client.delete_topics(["models"])["models"].result()
    missing = [state for state in describe(servers) if state.problem]
    assert [(state.name, state.problem) for state in missing] == [("models", "missing: `foryou topics --create`")]
    assert create_topics(servers) == ["models"]


def test_a_setting_that_breaks_what_the_system_relies_on_is_a_problem(
    servers: Settings,
) -> None:
    def problems(name: str, replication_factor: int = 1, replicas: int = 1, **changed: str) -> str:
        known = TOPICS[name].config_for(1) | {key.replace("_", "."): value for key, value in changed.items()}
        wanted = servers.model_copy(update={"replication_factor": replication_factor})
        partition = SimpleNamespace(replicas=[*range(replicas)])
        return _state(name, {0: partition}, known, wanted).problem

    assert problems("posts") == ""
    assert problems("posts", retention_ms="-1") == ""
    assert problems("posts", retention_ms="1").startswith("retention.ms is 1, not 604800000: `foryou topics --repair`")
    assert problems("posts", message_timestamp_type="CreateTime").startswith("message.timestamp.type is CreateTime")
    assert problems("feed-requests", segment_ms="604800000").startswith("segment.ms is 604800000, not 600000")
    assert problems("feed-requests", segment_ms="1000") == ""
    assert problems("post-counts", max_compaction_lag_ms="9223372036854775807").startswith("max.compaction.lag.ms")
    assert problems("post-counts", cleanup_policy="delete").startswith("cleanup.policy is delete, not compact")
    assert problems("social-graph", retention_ms="604800000").startswith("retention.ms is 604800000, not -1")
    assert problems("posts", 3, 3).startswith("min.insync.replicas is 1, not 2")
    assert problems("posts", 3, 3, min_insync_replicas="2") == ""
    assert problems("posts", 3, 1, min_insync_replicas="2").startswith("1 replicas, not 3")


def test_the_end_of_a_topic_is_exact_although_the_watermark_is_not(servers: Settings) -> None:
    publish_numbers(servers, "training-examples", 0, 1_000)
    publish_numbers(servers, "training-examples", 1, 1)
    assert ends_of(servers, ["training-examples"]) == {("training-examples", 0): 1_000, ("training-examples", 1): 1}


def test_an_empty_topic_has_no_end(servers: Settings) -> None:
    assert ends_of(servers, ["models"]) == {}
    assert ends_of(servers, []) == {}


def test_the_lag_counts_uncommitted_messages(servers: Settings) -> None:
    ends = {("feeds-served", 0): 100, ("feeds-served", 1): 50}
    assert lag(servers, "flows.unknown", ends) == 150
    commit(servers, "flows.posts", "feeds-served", 0, 90)
    assert lag(servers, "flows.posts", ends) == 60
    commit(servers, "flows.posts", "feeds-served", 0, 120)
    commit(servers, "flows.posts", "feeds-served", 1, 50)
    assert lag(servers, "flows.posts", ends) == 0


def test_the_lag_of_empty_topics_is_zero(servers: Settings) -> None:
    assert lag(servers, "flows.posts", {}) == 0


def test_an_unreachable_broker_is_reported_with_its_address_and_remedy() -> None:
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1 .*foryou up"):
        ensure_reachable(load(kafka="127.0.0.1:1"), timeout_s=0.2)
