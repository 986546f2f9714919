import json
import re
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic

from flows.sources import KafkaSource
from infra.ops.check import Check
from infra.ops.doctor import examine
from infra.ports.clock import now_ms
from infra.ports.kafka_admin import admin, create_topics
from infra.ports.kafka_config import alive_group, consumer_config
from infra.ports.settings import Settings
from tests.infra.cli.foryou import foryou
from tests.infra.waiting import eventually

EVENTS = b"""{"type":"follow","user_id":1,"target_id":2,"at":1700000000000}

{"type":"follow","user_id":1,"target_id":1,"at":1700000000000}
{"type":"post_created","post_id":"at://post","author_id":"did:plc:a","at":1700000000000,"kind":"original","new":1}
nonsense
"""


def test_a_wrong_setting_is_reported_in_one_line_with_exit_code_2() -> None:
    done = foryou("topics", FORYOU_PARTITIONS="many")
    assert done.returncode == 2
    (message,) = done.stderr.decode().splitlines()
    assert message.startswith("foryou: FORYOU_PARTITIONS (partitions of topics")


def test_an_unreachable_broker_is_reported_in_one_line_with_exit_code_1() -> None:
    done = foryou("feed", "42", FORYOU_KAFKA="127.0.0.1:1")
    assert done.returncode == 1
    (message,) = done.stderr.decode().splitlines()
    assert message.startswith("foryou: no Kafka broker answers at 127.0.0.1:1 ")


@pytest.mark.embedded
def test_an_unreachable_redis_is_reported_in_one_line_with_exit_code_1(servers: Settings) -> None:
    done = foryou("explain", "42", settings=servers.model_copy(update={"redis": "redis://127.0.0.1:1/0"}))
    assert done.returncode == 1
    (message,) = done.stderr.decode().splitlines()
    assert message.startswith("foryou: no Redis answers at redis://127.0.0.1:1/0 ")


def test_a_directory_without_a_log_is_reported_in_one_line_with_exit_code_2(tmp_path: Path) -> None:
    done = foryou("replay", str(tmp_path), "--embedded")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.embedded
def test_each_refused_line_is_reported_and_the_others_are_published(servers: Settings) -> None:
    done = foryou("publish", "-", settings=servers, stdin=EVENTS)
    assert done.returncode == 1
    first, second, total = done.stderr.decode().splitlines()
    assert first.startswith("line 3: a user cannot follow themselves")
    assert second.startswith("line 5: ")
    assert total == "2 published, 2 refused"


@pytest.mark.embedded
def test_strict_publishing_stops_at_the_first_refused_line(servers: Settings, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(EVENTS)
    done = foryou("publish", str(file), "--strict", settings=servers)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == "1 published, 1 refused"


@pytest.mark.embedded
def test_a_feed_request_without_an_answer_ends_with_a_remedy(servers: Settings) -> None:
    done = foryou("feed", "42", "--timeout", "0.1", settings=servers)
    assert done.returncode == 1
    (message,) = done.stderr.decode().splitlines()
    assert "`foryou doctor`" in message


@pytest.mark.embedded
def test_repair_sets_the_settings_of_topics_that_differ(servers: Settings) -> None:
    client = admin(servers)
    try:
        for topic, config in {
            "models": {"cleanup.policy": "delete"},
            "training-examples": {"retention.ms": "1"},
        }.items():
            client.delete_topics([topic])[topic].result()
            client.create_topics([NewTopic(topic, servers.partitions, 1, config=config)])[topic].result()
        (check,) = [each for each in examine(servers) if each.name == "topics"]
        assert (check.state, "cleanup.policy is delete, not compact" in check.detail) == ("fail", True)
        assert foryou("topics", "--check", settings=servers).returncode == 1
        done = foryou("topics", "--repair", settings=servers)
        assert b"changed: " in done.stderr
        assert b"models: cleanup.policy=compact" in done.stderr
        assert done.returncode == 0, done.stdout
        again = foryou("topics", "--repair", settings=servers)
        assert (again.returncode, again.stderr) == (0, b"changed: no setting differed\n")
    finally:
        for topic in ("models", "training-examples"):
            client.delete_topics([topic])[topic].result()
        create_topics(servers)


def test_topics_are_printed_as_json(servers: Settings) -> None:
    done = foryou("topics", "--json", settings=servers)
    assert done.returncode == 0, done.stderr
    assert {topic["problem"] for topic in json.loads(done.stdout)} == {""}


@pytest.mark.embedded
def test_the_doctor_reports_that_no_worker_runs(servers: Settings) -> None:
    done = foryou("doctor", "--json", settings=servers)
    assert done.returncode == 1
    states = {check["name"]: check["state"] for check in json.loads(done.stdout)}
    assert states["Kafka"] == states["Redis"] == states["topics"] == "ok"
    assert states["workers"] == "fail"


@pytest.mark.embedded
def test_the_doctor_notices_a_flow_that_has_ended_and_one_that_has_never_run(servers: Settings) -> None:
    own = servers.model_copy(update={"group_prefix": "doctor"})

    def flow(name: str) -> Check:
        return next(check for check in examine(own) if check.name == name)

    partitions = [
        KafkaSource(own, "posts", "flows.posts").build_part("posts", f"posts-{part}", None) for part in (0, 1)
    ]
    for partition in partitions:
        partition.snapshot()

    def is_ok() -> bool:
        return flow("flows.posts").state == "ok"

    eventually(is_ok)
    never = flow("flows.engagements")
    assert never.state == "fail"
    assert re.fullmatch(r"it has never run; \d+ messages left to read", never.detail)
    for partition in partitions:
        partition.close()
    consumer = Consumer(consumer_config(own, alive_group(own, "flows.posts")))
    consumer.commit(offsets=[TopicPartition("posts", 1, now_ms() - 60_000)], asynchronous=False)
    consumer.close()
    dead = flow("flows.posts")
    assert dead.state == "fail"
    assert re.match(r"no sign of life for 6\d s in posts-1; \d+ messages left to read", dead.detail)
    assert dead.remedy == "start `foryou up`, or python -m flows posts"


@pytest.mark.embedded
def test_the_doctor_names_partitions_that_were_added_since_the_start_of_a_flow(servers: Settings) -> None:
    own = servers.model_copy(update={"group_prefix": "doctor-of-partitions"})
    consumer = Consumer(consumer_config(own, alive_group(own, "flows.posts")))
    consumer.commit(offsets=[TopicPartition("posts", 0, now_ms())], asynchronous=False)
    consumer.close()
    found = next(check for check in examine(own) if check.name == "flows.posts")
    assert found.state == "fail"
    assert found.detail.startswith("it does not read posts-1, which its topics had not at its start; ")
    assert found.remedy == "restart flows.posts"


def test_the_doctor_reports_all_failures_at_once() -> None:
    done = foryou("doctor", "--json", FORYOU_KAFKA="127.0.0.1:1", FORYOU_REDIS="redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert [check["name"] for check in json.loads(done.stdout) if check["state"] == "fail"] == ["Kafka", "Redis"]


def test_one_schema_or_all_are_printed() -> None:
    everything = json.loads(foryou("schemas").stdout)
    assert {"posts", "engagements", "social-graph", "feed-requests", "feed", "explain"} <= set(everything)
    assert json.loads(foryou("schemas", "feed").stdout) == everything["feed"]
    assert foryou("schemas", "nothing").returncode == 2
