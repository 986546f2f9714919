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

import infra.ports.redis
from flows.engagements import UserSink, UserWrites
from infra.ports.settings import load
from infra.stack.embedded import EmbeddedRedis
from tests.infra.faulty_redis import faulty_redis
from tests.infra.waiting import eventually
from tests.thunder_ingest.users.users import edge
from thunder_ingest.events import Follow
from thunder_ingest.events.redis_keys import user_key
from thunder_ingest.users.entries import entries_by_user
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole

FAILOVERS = 20 if os.environ.get("FORYOU_SOAK") else 1
USERS = range(1, 20)


def writes(number: int) -> UserWrites:
    follows = [edge(Follow, number, user=user, target=1_000 + number) for user in USERS]
    return UserWrites(entries_by_user(follows), f"g0-{number}-{number}")


@pytest.mark.embedded
def test_a_write_that_a_new_primary_lacks_is_written_again(
    valkey: redis.Redis, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infra.ports.redis, "_RETRY_S", 0.01)
    declare_whole(valkey)

    def connected() -> socket.socket:
        found = socket.socket(socket.AF_UNIX)
        found.connect(valkey_url.removeprefix("unix://"))
        return found

    with faulty_redis(connected) as proxy:
        writer = UserSink(load(redis=proxy.url)).build("", 0, 1)
        writer.write_batch([writes(1)])
        valkey.flushall()  # the state of the new primary, which lacks the first batch
        declare_whole(valkey)
        proxy.fail("READONLY You can't write against a read only replica.", "HSET", times=1)
        writer.write_batch([writes(2)])
    states = UserStates(valkey).read([str(user) for user in USERS])
    assert all(state.following.tolist() == [1_001, 1_002] and state.is_whole for state in states)
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

    def connected() -> socket.socket:
        return socket.create_connection(("127.0.0.1", behind[-1].port))

    with faulty_redis(connected) as proxy, redis.Redis(port=primary.port) as client:
        declare_whole(client)
        writer, stopping = UserSink(load(redis=proxy.url)).build("", 0, 1), threading.Event()

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
