"""The engagements flow while a primary is killed and its replica is promoted behind one address."""

import itertools
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import redis
from bytewax.outputs import StatelessSinkPartition

import infra.ports.redis
from flows import engagements
from flows.engagements import UserSink, UserWrites
from infra.ports.redis import Client
from infra.ports.settings import Settings, load
from infra.stack.embedded import EmbeddedRedis
from tests.infra.faulty_redis import faulty_redis
from tests.infra.waiting import eventually
from tests.thunder_ingest.users.users import edge
from thunder_ingest.events import Follow
from thunder_ingest.events.redis_keys import BUILD_KEY, MARK_KEY, user_key
from thunder_ingest.users.entries import entries_by_user
from thunder_ingest.users.positions import Span
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole

FAILOVERS = 20 if os.environ.get("FORYOU_SOAK") else 1
USERS = range(1, 20)


def writes(number: int) -> UserWrites:
    follows = [edge(Follow, number, user=user, target=1_000 + number) for user in USERS]
    return UserWrites(entries_by_user(follows), f"g0-{number}-{number}", Span("social-graph-0", number, number + 1))


def idle(number: int) -> UserWrites:
    """An empty batch after the first `number` ones."""
    return UserWrites({}, "", Span("social-graph-0", number, number))


def following(client: Client, user: str = "1") -> list[int]:
    """The targets of a user who is served; none if the state is missing."""
    (state,) = UserStates(client).read([user])
    return [target - 1_000 for target in state.following.tolist()] if state.is_whole else []


class Past:
    """The state of a Redis, to which it goes back as a new primary that lacks the last writes, or from a snapshot."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._keys = {key: client.dump(key) or b"" for key in client.scan_iter()}

    def returns(self) -> None:
        self._client.flushall()
        for key, value in self._keys.items():
            self._client.restore(key, 0, value)


def writer_of(settings: Settings) -> StatelessSinkPartition[UserWrites]:
    return UserSink(settings).build("", 0, 1)


@pytest.fixture
def settings(valkey: redis.Redis, valkey_url: str) -> Settings:
    declare_whole(valkey)
    return load(redis=valkey_url)


@pytest.mark.embedded
def test_acknowledged_writes_that_a_new_primary_lacks_are_written_again_though_no_command_failed(
    settings: Settings, valkey: redis.Redis
) -> None:
    writer = writer_of(settings)
    writer.write_batch([writes(0)])
    past = Past(valkey)
    writer.write_batch([writes(1), writes(2)])
    past.returns()
    writer.write_batch([idle(3)])
    assert following(valkey) == [0, 1, 2]
    past.returns()
    writer.write_batch([writes(3)])
    assert following(valkey) == [0, 1, 2, 3]


@pytest.mark.embedded
def test_a_user_whose_registration_was_lost_is_registered_again(settings: Settings, valkey: redis.Redis) -> None:
    writer = writer_of(settings)
    writer.write_batch([idle(0)])
    past = Past(valkey)
    writer.write_batch([writes(0)])
    past.returns()
    writer.write_batch([idle(1)])
    assert following(valkey) == [0]
    valkey.delete(user_key("1"))
    assert not UserStates(valkey).read(["1"])[0].is_whole


@pytest.mark.embedded
def test_the_time_of_an_outage_does_not_count_as_the_age_of_a_batch(
    valkey: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra.ports.redis, "_RETRY_S", 0.6)
    monkeypatch.setattr(engagements, "RECENT_S", 0.5)
    declare_whole(valkey)
    with faulty_redis(lambda: connected(valkey_url)) as proxy:
        writer = writer_of(load(redis=proxy.url))
        past = Past(valkey)
        writer.write_batch([writes(0)])
        past.returns()
        proxy.fail("LOADING Redis is loading the dataset in memory", "HSET", times=1)
        writer.write_batch([writes(1)])
        assert following(valkey) == [0, 1]


@pytest.mark.embedded
def test_the_mark_is_withdrawn_if_lost_writes_are_too_old_to_be_written_again(
    settings: Settings, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engagements, "RECENT_USERS", 1)
    writer = writer_of(settings)
    writer.write_batch([writes(0)])
    past = Past(valkey)
    writer.write_batch([writes(1), writes(2)])
    past.returns()
    assert following(valkey) == [0]
    writer.write_batch([idle(3)])
    assert following(valkey) == []
    assert "from offset 1 to 3: requests fail until `foryou rebuild users`" in caplog.text
    declare_whole(valkey)  # as a rebuild does
    writer.write_batch([idle(3), writes(3)])
    assert following(valkey)


@pytest.mark.embedded
def test_a_redis_that_restarts_from_an_old_snapshot_serves_nobody_after_the_start_of_the_flow(
    settings: Settings, valkey: redis.Redis
) -> None:
    writer_of(settings).write_batch([writes(0)])
    past = Past(valkey)
    writer_of(settings).write_batch([writes(0), writes(1)])
    writer_of(settings).write_batch([idle(2)])
    assert following(valkey) == [0, 1]
    past.returns()
    writer_of(settings).write_batch([idle(2)])
    assert following(valkey) == []


@pytest.mark.embedded
def test_batches_that_are_read_again_after_a_restart_withdraw_no_mark(settings: Settings, valkey: redis.Redis) -> None:
    writer_of(settings).write_batch([writes(0), writes(1), writes(2)])
    writer_of(settings).write_batch([writes(1), writes(2), writes(3)])
    writer_of(settings).write_batch([idle(4)])
    assert following(valkey) == [0, 1, 2, 3]


@pytest.mark.embedded
def test_a_state_of_an_earlier_version_without_positions_stays_whole(settings: Settings, valkey: redis.Redis) -> None:
    UserStates(valkey).write(writes(0).entries, "g0-0-0")
    writer_of(settings).write_batch([idle(1)])
    assert following(valkey) == [0]


@pytest.mark.embedded
def test_a_lost_write_ends_the_first_build_without_a_mark(settings: Settings, valkey: redis.Redis) -> None:
    writer = writer_of(settings)
    writer.write_batch([writes(5)])
    past = Past(valkey)
    past.returns()
    valkey.delete(MARK_KEY)
    valkey.hset(BUILD_KEY, mapping={"id": "b", "bounds": "{}"})
    valkey.delete(*valkey.keys("*:written:*"))
    writer.write_batch([idle(6)])
    assert not valkey.exists(BUILD_KEY)


def connected(url: str) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    found.connect(url.removeprefix("unix://"))
    return found


@pytest.mark.embedded
def test_a_write_that_a_new_primary_lacks_is_written_again(
    valkey: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra.ports.redis, "_RETRY_S", 0.01)
    declare_whole(valkey)

    with faulty_redis(lambda: connected(valkey_url)) as proxy:
        writer = writer_of(load(redis=proxy.url))
        writer.write_batch([writes(0), writes(1)])
        valkey.flushall()  # the state of the new primary, which lacks the first batch
        declare_whole(valkey)
        proxy.fail("READONLY You can't write against a read only replica.", "HSET", times=1)
        writer.write_batch([writes(2)])
    states = UserStates(valkey).read([str(user) for user in USERS])
    assert all(state.following.tolist() == [1_000, 1_001, 1_002] and state.is_whole for state in states)
    valkey.delete(user_key("1"))
    assert not UserStates(valkey).read(["1"])[0].is_whole


@pytest.mark.embedded
def test_no_write_is_lost_when_a_killed_primary_is_replaced_by_its_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra.ports.redis, "_RETRY_S", 0.05)
    numbers = itertools.count()
    primary = EmbeddedRedis(tmp_path / "0").start()
    behind, names = [primary], itertools.count(1)

    def to_primary() -> socket.socket:
        return socket.create_connection(("127.0.0.1", behind[-1].port))

    with faulty_redis(to_primary) as proxy, redis.Redis(port=primary.port) as client:
        declare_whole(client)
        writer, stopping = writer_of(load(redis=proxy.url)), threading.Event()

        def write() -> None:
            while not stopping.is_set():
                writer.write_batch([writes(next(numbers))])

        thread = threading.Thread(target=write)
        thread.start()
        for _ in range(FAILOVERS):
            replica = EmbeddedRedis(tmp_path / str(next(names))).start()
            promote_after_the_death_of(behind[-1], replica)
            behind.append(replica)
            time.sleep(0.5)
        stopping.set()
        thread.join()
    with redis.Redis(port=behind[-1].port) as client:
        count = next(numbers)
        assert count > 10
        states = UserStates(client).read([str(user) for user in USERS])
        assert all(len(state.following) == count and state.is_whole for state in states)
    for server in behind:
        server.stop()


def promote_after_the_death_of(primary: EmbeddedRedis, replica: EmbeddedRedis) -> None:
    with redis.Redis(port=replica.port) as client, redis.Redis(port=primary.port) as dying:
        client.replicaof("127.0.0.1", primary.port)
        eventually(lambda: client.info("replication").get("master_link_status") == "up")
        os.kill(dying.info("server")["process_id"], signal.SIGKILL)
        client.replicaof("NO", "ONE")
