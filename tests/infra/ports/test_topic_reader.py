import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.ports import topic_reader
from infra.ports.consumer import partitions_of
from infra.ports.errors import BrokerUnreachable, TopicMissing
from infra.ports.kafka_admin import create_topics
from infra.ports.producer import Record
from infra.ports.settings import Settings, load
from infra.ports.topic_reader import scan
from infra.stack.embedded import EmbeddedKafka
from tests.infra.cli.foryou import unique, write, write_to

pytestmark = pytest.mark.embedded


def test_all_partitions_are_read_in_order_with_progress(servers: Settings) -> None:
    mark, seen = unique("scan").encode(), list[tuple[float, float]]()
    for partition in (0, 1):
        for number in range(3):
            write_to(servers, "training-examples", partition, mark, b"%d" % number)
    found = scan(servers, ["training-examples", "feeds-served"], lambda done, total: seen.append((done, total)))
    messages = [each for batch in found for each in batch if each.key() == mark]
    for partition in (0, 1):
        assert [each.value() for each in messages if each.partition() == partition] == [b"0", b"1", b"2"]
    assert seen[-1][0] == seen[-1][1] > 0


def test_an_empty_topic_ends_at_once(servers: Settings) -> None:
    assert list(scan(servers, ["models"])) == []


def test_a_missing_topic_is_reported_with_its_name(servers: Settings) -> None:
    with pytest.raises(TopicMissing, match="no topic nonsense"):
        list(scan(servers, ["nonsense"]))


def test_a_read_that_waits_goes_on_after_the_outage(servers: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, waits = unique("waits").encode(), list[str]()
    write_to(servers, "training-examples", 0, mark, b"1")
    monkeypatch.setattr(topic_reader, "STALLED_S", 0.0)
    failures = iter((True, True, False))

    def partitions(settings: Settings, topics: Sequence[str]) -> dict[str, list[int]]:
        if next(failures):
            raise BrokerUnreachable("no broker answers")
        return partitions_of(settings, topics)

    monkeypatch.setattr(topic_reader, "partitions_of", partitions)

    def wait(error: BrokerUnreachable) -> None:
        waits.append(str(error))
        time.sleep(0.1)

    found = [each.value() for batch in scan(servers, ["training-examples"], wait=wait) for each in batch]
    assert b"1" in found
    assert waits[:2] == ["no broker answers"] * 2


def test_the_wait_for_a_broker_that_stops_during_the_read_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.ports.topic_reader.STALLED_S", 0.5)
    monkeypatch.setattr("infra.ports.topic_reader.BATCH_MESSAGES", 1)
    with EmbeddedKafka(tmp_path) as kafka:
        settings = load(kafka=kafka.address, partitions=1)
        create_topics(settings)
        # more than the prefetch of a consumer
        write(settings, *(Record("posts", b"1", random.randbytes(1_000_000)) for _ in range(40)))
        batches, stalled = scan(settings, ["posts"]), list[str]()

        def wait(error: BrokerUnreachable) -> None:
            stalled.append(str(error))
            if len(stalled) == 3:
                raise TimeoutError

        waiting = scan(settings, ["posts"], wait=wait)
        next(batches), next(waiting)
        kafka.stop()
        with pytest.raises(TimeoutError):
            list(waiting)
        with pytest.raises(BrokerUnreachable, match=r"sent nothing for .* before the end"):
            list(batches)
