import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from infra.ports.errors import BrokerUnreachable
from infra.ports.kafka_admin import admin, create_topics, describe, ends_of, ensure_reachable, lag
from infra.ports.kafka_config import consumer_config, group
from infra.ports.settings import Settings, load
from infra.ports.topics import TOPICS

pytestmark = pytest.mark.embedded


def publish(settings: Settings, topic: str, partition: int, count: int) -> None:
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


def test_a_missing_topic_is_described_with_what_creates_it(servers: Settings) -> None:
    client = admin(servers)
    client.delete_topics(["models"])["models"].result()
    missing = [state for state in describe(servers) if state.problem]
    assert [(state.name, state.problem) for state in missing] == [("models", "missing: `foryou topics --create`")]
    assert create_topics(servers) == ["models"]


def test_the_end_of_a_topic_is_exact_whatever_the_watermark_says(servers: Settings) -> None:
    publish(servers, "training-examples", 0, 1_000)
    publish(servers, "training-examples", 1, 1)
    assert ends_of(servers, ["training-examples"]) == {("training-examples", 0): 1_000, ("training-examples", 1): 1}


def test_an_empty_topic_and_no_topics_have_no_ends(servers: Settings) -> None:
    assert ends_of(servers, ["models"]) == {}
    assert ends_of(servers, []) == {}


def test_the_lag_counts_what_a_group_has_not_finished(servers: Settings) -> None:
    client, ends = admin(servers), {("feeds-served", 0): 100, ("feeds-served", 1): 50}
    assert lag(client, servers, "flows.unheard-of", ends) == 150
    commit(servers, "flows.posts", "feeds-served", 0, 90)
    assert lag(client, servers, "flows.posts", ends) == 60
    commit(servers, "flows.posts", "feeds-served", 0, 120)
    commit(servers, "flows.posts", "feeds-served", 1, 50)
    assert lag(client, servers, "flows.posts", ends) == 0


def test_there_is_no_lag_where_nothing_was_published(servers: Settings) -> None:
    assert lag(admin(servers), servers, "flows.posts", {}) == 0


def test_a_broker_that_is_away_is_named_with_what_to_do() -> None:
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1 .*foryou up"):
        ensure_reachable(load(kafka="127.0.0.1:1"), timeout_s=0.2)
