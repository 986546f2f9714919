"""The mark of the users' state is set by a new deployment alone, after its flow has read the log."""

import uuid

import pytest
import redis
from confluent_kafka import Consumer, TopicPartition

from flows import first_build
from flows.first_build import FLOW, FirstBuild
from infra.ports.consumer import partitions_of
from infra.ports.kafka_admin import ends_of
from infra.ports.kafka_config import FLOW_GROUPS, consumer_config, group
from infra.ports.producer import Record
from infra.ports.settings import Settings
from tests.infra.cli.foryou import write
from thunder_ingest.events import Follow, encode
from thunder_ingest.users.register import UserRegister

pytestmark = pytest.mark.embedded


@pytest.fixture
def settings(servers: Settings, valkey_url: str, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An empty Redis, and a deployment that has committed nothing of a log with a follow."""
    monkeypatch.setattr(first_build, "CHECK_S", 0.0)
    follow = Follow(user_id=70, target_id=71, at=1_800_000_000_000)
    write(servers, Record("social-graph", b"70", encode(follow)))
    return servers.model_copy(update={"redis": valkey_url, "group_prefix": uuid.uuid4().hex})


@pytest.fixture
def register(valkey: redis.Redis) -> UserRegister:
    return UserRegister(valkey)


def commit(settings: Settings, ends: dict[tuple[str, int], int]) -> None:
    consumer = Consumer(consumer_config(settings, group(settings, FLOW)))
    consumer.commit(offsets=[TopicPartition(*part, end) for part, end in ends.items()], asynchronous=False)
    consumer.close()


def note_all(build: FirstBuild, settings: Settings, first: int = 0) -> None:
    for topic, parts in partitions_of(settings, FLOW_GROUPS[FLOW]).items():
        for part in parts:
            build.note(f"{topic}-{part}", first)


def test_the_mark_is_set_once_the_log_is_read(settings: Settings, valkey: redis.Redis, register: UserRegister) -> None:
    build, another = FirstBuild(settings, valkey), FirstBuild(settings, valkey)  # of two processes
    ends = ends_of(settings, FLOW_GROUPS[FLOW])
    note_all(build, settings)
    build.check()
    assert register.mark() is None
    commit(settings, ends)
    another.check()
    assert register.mark() is not None
    build.check()
    assert not register.is_damaged()


def test_a_flow_that_resumes_on_an_emptied_redis_sets_no_mark(
    settings: Settings, valkey: redis.Redis, register: UserRegister, caplog: pytest.LogCaptureFixture
) -> None:
    commit(settings, ends_of(settings, FLOW_GROUPS[FLOW]))
    build = FirstBuild(settings, valkey)
    note_all(build, settings)
    build.check()
    assert register.mark() is None
    assert "foryou rebuild users" in caplog.text


def test_a_flow_whose_redis_is_emptied_during_the_build_sets_no_mark(
    settings: Settings, valkey: redis.Redis, register: UserRegister
) -> None:
    build = FirstBuild(settings, valkey)
    note_all(build, settings)
    valkey.flushall()
    commit(settings, ends_of(settings, FLOW_GROUPS[FLOW]))
    build.check()
    restarted = FirstBuild(settings, valkey)
    restarted.check()
    assert register.mark() is None


def test_a_build_ends_if_the_log_has_lost_the_messages_before_the_first_that_was_read(
    settings: Settings, valkey: redis.Redis, register: UserRegister, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = FirstBuild(settings, valkey)
    note_all(build, settings, first=1)
    commit(settings, ends_of(settings, FLOW_GROUPS[FLOW]))
    monkeypatch.setattr(build, "_bounds", lambda _topic, _part: (1, 1))  # the embedded broker deletes no messages
    build.check()
    assert register.mark() is not None


def test_a_flow_that_begins_later_in_the_log_sets_no_mark(
    settings: Settings, valkey: redis.Redis, register: UserRegister
) -> None:
    build = FirstBuild(settings, valkey)
    note_all(build, settings, first=1)
    commit(settings, ends_of(settings, FLOW_GROUPS[FLOW]))
    build.check()
    assert register.mark() is None
