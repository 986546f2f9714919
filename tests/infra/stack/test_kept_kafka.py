import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import psutil
import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from infra.ports.settings import load
from infra.stack import log_keeper
from infra.stack.broker_log import BrokerLog, LogDamaged, TopicCreated
from infra.stack.data_directory import DataDirectory
from infra.stack.embedded import EmbeddedKafka, EmbeddedServer
from infra.stack.kept_kafka import KeptKafka
from infra.stack.log_keeper import LogIncomplete, LogKeeper, Options
from tests.e2e.containers import free_port
from tests.infra.waiting import eventually, is_gone

pytestmark = pytest.mark.embedded

QUIET: dict[str, Any] = {"log_level": 1}


class Kept(NamedTuple):
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | str | None
    value: bytes | str | None
    headers: object


@contextmanager
def kept(directory: Path) -> Iterator[KeptKafka]:
    with (
        DataDirectory(directory) as data,
        KeptKafka(load(partitions=2), directory / "kafka", lock=data.lock) as kafka,
    ):
        kafka.wait_restored(lambda: None)
        yield kafka


def publish(kafka: EmbeddedServer, topic: str, values: range, partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": kafka.address} | QUIET)
    for value in values:
        headers = cast(Any, [("n", b"%d" % value), ("none", None)] if value % 2 else None)
        body = b"%d" % value if value % 5 else None
        producer.produce(topic, body, b"k%d" % value, partition, timestamp=1_700_000_000_000 + value, headers=headers)
    assert producer.flush(30) == 0


def records(kafka: KeptKafka, topic: str, count: int) -> list[Kept]:
    consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": "test", "enable.auto.commit": False} | QUIET)
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(2)])
    found: list[Message] = []
    while len(found) < count or (more := consumer.consume(10_000, 0.3)):
        found += consumer.consume(10_000, 0.1) if len(found) < count else more
    consumer.close()
    return sorted(
        Kept(m.partition() or 0, m.offset() or 0, m.timestamp()[1], m.key(), m.value(), m.headers()) for m in found
    )


def committed(kafka: KeptKafka, group: str) -> dict[int, int]:
    admin = AdminClient({"bootstrap.servers": kafka.address} | QUIET)
    (future,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
    return {part.partition: part.offset for part in future.result().topic_partitions}


def commit(kafka: KeptKafka, group: str, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": group} | QUIET)
    consumer.commit(offsets=[TopicPartition("posts", 0, offset)], asynchronous=False)
    consumer.close()


def test_records_offsets_and_groups_are_the_same_after_each_stop(tmp_path: Path) -> None:
    with kept(tmp_path) as kafka:
        publish(kafka, "posts", range(100))
        publish(kafka, "posts", range(7), partition=1)
        commit(kafka, "app", 42)
        before = records(kafka, "posts", 107)
    assert len(before) == 107
    for _ in range(2):
        assert kafka.is_whole
        with kept(tmp_path) as kafka:
            assert records(kafka, "posts", 107) == before
            assert committed(kafka, "app") == {0: 42}
    with kept(tmp_path) as kafka:
        publish(kafka, "posts", range(1))
        assert [each.offset for each in records(kafka, "posts", 108) if each.partition == 0] == list(range(101))


def test_a_topic_that_an_app_created_is_kept_with_its_records(tmp_path: Path) -> None:
    with kept(tmp_path) as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.address} | QUIET)
        admin.create_topics([NewTopic("mine", num_partitions=2)])["mine"].result()
        publish(kafka, "mine", range(3))
    with kept(tmp_path) as kafka:
        topics = AdminClient({"bootstrap.servers": kafka.address} | QUIET).list_topics(timeout=10).topics
        assert len(topics["mine"].partitions) == 2
        assert len(records(kafka, "mine", 3)) == 3


PARENT = """
import sys, time
from pathlib import Path
from tests.infra.stack.test_kept_kafka import kept
with kept(Path(sys.argv[1])) as kafka:
    print(kafka.address, flush=True)
    time.sleep(600)
"""


@contextmanager
def parent_of(directory: Path) -> Iterator["tuple[subprocess.Popen[str], str]"]:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(directory)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        try:
            yield parent, parent.stdout.readline().strip()
        finally:
            parent.kill()


def test_no_record_that_was_accepted_is_lost_if_the_parent_is_killed(tmp_path: Path) -> None:
    accepted: dict[int, int] = {}

    def note(error: KafkaError | None, message: Message) -> None:
        if error is None:
            accepted[message.offset() or 0] = int(message.value() or b"")

    with parent_of(tmp_path) as (parent, address):
        producer = Producer({"bootstrap.servers": address, "message.timeout.ms": 1_000, "linger.ms": 1} | QUIET)
        for value in range(20_000):
            producer.produce("posts", b"%d" % value, partition=0, on_delivery=note)
            producer.poll(0)
            if value == 10_000:
                os.kill(parent.pid, signal.SIGKILL)
        producer.flush(10)
    with kept(tmp_path) as kafka:
        found = {each.offset: int(each.value or b"") for each in records(kafka, "posts", len(accepted))}
    assert accepted
    assert accepted.items() <= found.items()


def test_a_log_is_not_whole_after_its_keeper_was_killed(tmp_path: Path) -> None:
    with kept(tmp_path) as kafka:
        publish(kafka, "posts", range(10))
        commit(kafka, "app", 500)
        keeper = next(each for each in psutil.Process().children() if "infra.stack.log_keeper" in each.cmdline())
        broker = next(each for each in keeper.children() if "broker" in each.cmdline())
        groups = tmp_path / "kafka" / "groups.json"
        eventually(lambda: groups.exists() and b"500" in groups.read_bytes())
        keeper.kill()
        eventually(lambda: is_gone(broker.pid))
    assert not kafka.is_whole
    with kept(tmp_path) as kafka:
        end = len(records(kafka, "posts", 10))
        assert committed(kafka, "app") == {0: end}
    assert kafka.is_whole


def test_a_producer_that_connects_while_the_log_is_restored_writes_behind_it(tmp_path: Path) -> None:
    with kept(tmp_path) as kafka:
        publish(kafka, "posts", range(5_000))
        port = kafka.port
    with DataDirectory(tmp_path) as data:
        kafka = KeptKafka(load(partitions=2), tmp_path / "kafka", port, lock=data.lock)
        early = threading.Thread(target=publish, args=(kafka, "posts", range(9_000, 9_010)))
        with kafka:
            early.start()  # it waits until the port is open
            kafka.wait_restored(lambda: None)
            early.join()
            found = records(kafka, "posts", 5_010)
    assert [each.key for each in found[-10:]] == [b"k%d" % value for value in range(9_000, 9_010)]
    assert [each.offset for each in found] == list(range(5_010))


def test_a_damaged_log_is_reported_in_one_line_at_each_start_and_is_kept(tmp_path: Path) -> None:
    with kept(tmp_path) as kafka:
        publish(kafka, "posts", range(10))
    log = tmp_path / "kafka" / "records.log"
    content = bytearray(log.read_bytes())
    content[20] ^= 1
    log.write_bytes(content)
    for _ in range(2):
        with pytest.raises(LogDamaged, match=rf"^{log} is damaged at offset 0: [^\n]+$"), kept(tmp_path):
            pass
    assert log.read_bytes() == content
    options = Options(str(log.parent), free_port(), "cluster", [], os.getpid())
    keeper = [sys.executable, "-m", "infra.stack.log_keeper", msgspec.json.encode(options).decode()]
    ended = subprocess.run(keeper, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert re.fullmatch(rf"foryou: {log} is damaged at offset 0: .*\n", ended.stderr)
    assert log.read_bytes() == content


def test_the_log_keeper_gives_up_if_a_record_does_not_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_keeper, "TIMEOUT_S", 1.0)
    with EmbeddedKafka(tmp_path) as kafka, BrokerLog(tmp_path / "log") as log:
        keeper = LogKeeper(log, kafka.address, tmp_path, {})
        keeper.create([TopicCreated("posts", 1, {})])
        publish(kafka, "posts", range(1))
        monkeypatch.setattr(keeper, "_append", lambda timeout_s: False)
        with pytest.raises(LogIncomplete, match=r"no record of posts\[0\] arrived"):
            keeper.finish(kafka.check)
