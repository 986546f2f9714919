import logging
from typing import Any

import pytest
from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import NewTopic

from infra.ports import consumer as consumer_module
from infra.ports.consumer import MessageCheck, arrived_ms, check_commit, partitions_of
from infra.ports.error_table import KAFKA_GROUP_EVENTS, KAFKA_RETRIES, Reaction, kafka_reaction
from infra.ports.errors import BrokerRefused
from infra.ports.kafka_admin import admin
from infra.ports.kafka_config import consumer_config, group
from infra.ports.message import MessageCopy
from infra.ports.outage import Outage
from infra.ports.process_metrics import KAFKA_ERRORS, SKIPPED_OFFSETS
from infra.ports.settings import Settings, SettingsError, load
from tests.infra.ports.kafka_codes import ALL_CODES
from tests.infra.waiting import eventually

NOW = 1_700_000_000_000


class Scripted:
    """A consumer that notes the offsets that it is told to read from."""

    def __init__(self) -> None:
        self.sought: list[int] = []

    def seek(self, part: TopicPartition) -> None:
        self.sought.append(part.offset)

    def get_watermark_offsets(self, _part: TopicPartition, timeout: float) -> tuple[int, int]:
        return 7, 9

    def incremental_unassign(self, _parts: list[TopicPartition]) -> None:
        """Do nothing."""

    def incremental_assign(self, parts: list[TopicPartition]) -> None:
        self.sought += [part.offset for part in parts]


class Read:
    """A checked consumer without a broker."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        monkeypatch.setattr(consumer_module, "RETRY_S", 0.0)
        monkeypatch.setattr(consumer_module, "kafka_probe", lambda _: lambda: False)
        self.consumer, self.outage = Scripted(), Outage("Kafka", "nowhere")
        self.check = MessageCheck(load(), self.consumer, **options)
        self.check._outage = self.outage

    def __call__(self, *messages: Message) -> list[int | None]:
        return [each.offset() for each in self.check.usable(messages)]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    return Read(monkeypatch)


def message(offset: int, error: int | None = None) -> Message:
    return MessageCopy(topic="posts", partition=0, offset=offset, error=None if error is None else KafkaError(error))


def test_messages_without_an_error_are_usable_in_order(read: Read) -> None:
    assert read(message(1), message(2)) == [1, 2]


@pytest.mark.parametrize("code", ALL_CODES)
def test_an_error_between_messages_has_the_outcome_that_the_table_names(code: int, read: Read) -> None:
    reaction = kafka_reaction(KafkaError(code))
    if reaction is Reaction.END:
        with pytest.raises(BrokerRefused, match=KafkaError(code).name()):
            read(message(1), message(2, code), message(3))
        return
    before = KAFKA_ERRORS.values().get(KafkaError(code).name(), 0)
    assert read(message(1), message(2, code)) == [1]
    assert KAFKA_ERRORS.values()[KafkaError(code).name()] == before + 1
    is_wait = reaction is Reaction.WAIT and code not in KAFKA_GROUP_EVENTS
    assert read.check.position_is_lost == (is_wait or reaction is None)
    assert read(message(3)) == [3]


@pytest.mark.parametrize("code", [KafkaError.NOT_COORDINATOR, KafkaError.REQUEST_TIMED_OUT, KafkaError._TRANSPORT])
def test_an_error_of_a_broker_that_is_away_is_an_outage_until_a_message_arrives(code: int, read: Read) -> None:
    read(message(1, code))
    assert read.outage.problem is not None
    read(message(2))
    assert read.outage.problem is None


def test_unknown_errors_in_a_row_end_the_process(read: Read) -> None:
    for _ in range(KAFKA_RETRIES):
        assert read(message(1, KafkaError.UNKNOWN)) == []
    assert read(message(1)) == [1]
    for _ in range(KAFKA_RETRIES):
        assert read(message(1, KafkaError.UNKNOWN)) == []
    with pytest.raises(BrokerRefused):
        read(message(1, KafkaError.UNKNOWN))


def test_one_unknown_error_of_many_partitions_counts_once(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "RETRY_S", 60.0)
    assert read(*[message(1, KafkaError.UNKNOWN)] * (2 * KAFKA_RETRIES)) == []


def test_an_unreadable_batch_is_passed_offset_by_offset_and_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Read(monkeypatch, keeps_unreadable=True)
    bad = message(5, KafkaError._BAD_COMPRESSION)
    assert read(message(4), bad, bad) == [4, 5]
    assert read(bad) == []
    assert read(bad) == []
    assert read.consumer.sought == [6, 7, 8]
    assert read(message(8), message(9, KafkaError._BAD_COMPRESSION)) == [8, 9]
    assert read.consumer.sought[3:] == [10]


def test_offsets_that_retention_removed_are_logged_and_counted(read: Read, caplog: pytest.LogCaptureFixture) -> None:
    before = SKIPPED_OFFSETS.values().get("posts-0", 0)
    assert read(message(3, KafkaError._AUTO_OFFSET_RESET)) == []
    assert read.consumer.sought == [7]
    assert SKIPPED_OFFSETS.values()["posts-0"] == before + 4
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.ERROR,
        "posts[0]: offsets 3 to 6 were removed before they were read (retention): reading continues at 7",
    )


@pytest.mark.parametrize("code", ALL_CODES)
def test_a_failed_commit_ends_a_flow_only_if_the_table_says_so(code: int) -> None:
    check = check_commit(load())
    check(None, [])
    if kafka_reaction(KafkaError(code)) is Reaction.END:
        with pytest.raises(BrokerRefused):
            check(KafkaError(code), [])
    else:
        check(KafkaError(code), [])


def test_commits_with_an_unknown_error_are_bounded() -> None:
    check = check_commit(load())
    for _ in range(KAFKA_RETRIES):
        check(KafkaError(KafkaError.UNKNOWN), [])
    check(None, [])
    for _ in range(KAFKA_RETRIES):
        check(KafkaError(KafkaError.UNKNOWN), [])
    with pytest.raises(BrokerRefused):
        check(KafkaError(KafkaError.UNKNOWN), [])


def test_an_option_that_librdkafka_does_not_have_is_one_line() -> None:
    with pytest.raises(SettingsError, match=r'^FORYOU_KAFKA_OPTIONS: .*"sasl.usrname"'):
        partitions_of(load(kafka_options={"sasl.usrname": "x"}), ["posts"])


@pytest.mark.embedded
def test_a_batch_that_decompresses_to_more_than_a_client_takes_does_not_stop_a_partition(servers: Settings) -> None:
    client = admin(servers)
    client.create_topics([NewTopic("bombs", num_partitions=1, replication_factor=1)])["bombs"].result()
    producer = Producer(
        {"bootstrap.servers": servers.kafka, "compression.type": "zstd", "message.max.bytes": 1_000_000_000}
    )
    for value in (b"before", b"x" * 110_000_000, b"after"):
        producer.produce("bombs", value, partition=0)
        assert producer.flush(60) == 0
    consumer = Consumer(consumer_config(servers, group(servers, "bomb")))
    check = MessageCheck(servers, consumer, keeps_unreadable=True)
    consumer.assign([TopicPartition("bombs", 0, 0)])
    found: list[bytes | str | None] = []

    def is_done() -> bool:
        messages = check.usable(consumer.consume(100, 0.1))
        found.extend(each.value() if (error := each.error()) is None else error.name() for each in messages)
        return b"after" in found

    eventually(is_done)
    consumer.close()
    assert found == [b"before", "_BAD_COMPRESSION", b"after"]


@pytest.mark.parametrize(
    ("kind", "timestamp_ms", "at_ms", "arrived"),
    [
        (TIMESTAMP_LOG_APPEND_TIME, NOW - 900, NOW, NOW - 900),
        (TIMESTAMP_LOG_APPEND_TIME, NOW + 900, NOW, NOW + 900),  # the broker's clock is the one that counts
        (TIMESTAMP_CREATE_TIME, NOW - 900, NOW + 30, NOW - 900),
        (TIMESTAMP_CREATE_TIME, NOW + 900, NOW + 900, NOW),  # a fast clock of a producer
        (TIMESTAMP_CREATE_TIME, 5, NOW - 7_000, NOW),  # a wrong one
        (TIMESTAMP_NOT_AVAILABLE, 0, NOW - 7_000, NOW),
    ],
)
def test_a_message_arrives_at_the_brokers_time_or_else_at_a_producers_as_far_as_it_can_be_right(
    kind: int, timestamp_ms: int, at_ms: int, arrived: int
) -> None:
    stamped = MessageCopy(topic="posts", partition=0, offset=0, timestamp=(kind, timestamp_ms))
    assert arrived_ms(stamped, at_ms, 5_000, NOW) == arrived
