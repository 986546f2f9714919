"""Flows, workers and clients on a Redis Cluster, and while one of its nodes fails over."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import redis

from feed_worker.client import AsyncClient, Client
from feed_worker.serving.worker_registry import WorkerRegistry, ready_workers
from infra.ops import doctor
from infra.ops.state_user import read as state_of
from infra.ports.errors import RedisRefused
from infra.ports.redis import RedisRetry, connect
from infra.ports.settings import Settings
from infra.stack.embedded import EmbeddedRedis
from tests.feed_worker.client.answering import answer, feed_of, new_user
from tests.flows.test_redis_failover import Past, following, idle, writer_of, writes
from tests.infra.redis_cluster import LocalCluster, client_of, local_cluster
from tests.infra.waiting import eventually
from tests.thunder_ingest.users.users import edge
from thunder_ingest.events import Block, Follow
from thunder_ingest.events.redis_keys import user_key
from thunder_ingest.users.entries import updates_of
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole

pytestmark = pytest.mark.embedded

USERS = [str(user) for user in range(1, 100)]
FAILOVER_S = 60.0


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def settings(servers: Settings, cluster: LocalCluster) -> Settings:
    found = cluster.settings(servers, 0, 1)
    client = connect(found)
    declare_whole(client)
    client.close()
    return found


def follow(users: UserStates, number: int) -> None:
    follows = [edge(Follow, number, user=user, target=1_000 + number) for user in USERS]
    users.append([update for each in follows for update in updates_of(each)], f"0-{number}")


def answer_all(settings: Settings, users: Sequence[int]) -> None:
    """Write answers as a worker does, which waits for a failover."""
    for user in users:
        RedisRetry(settings, threading.Event()).run(partial(answer, settings, feed_of(user, "r")))


def test_users_feeds_registry_and_announcements_work_on_a_cluster(settings: Settings) -> None:
    viewers = [new_user() for _ in range(30)]
    client = connect(settings)
    users = UserStates(client)
    for number in range(40):
        follow(users, number)
    users.append(updates_of(edge(Block, 50, user=USERS[0], target=72)), "0-block")
    users.add_served(USERS[0], [5], 1, "r")
    states = users.read(USERS)
    assert all(len(state.following) == 40 and state.is_whole for state in states)
    assert states[0].served_ids.tolist() == [5]
    client.delete(user_key(USERS[1]))
    assert [state.is_whole for state in users.read(USERS[:3])] == [True, False, True]
    document = state_of(settings, USERS[0], 5)
    assert document is not None
    assert document.edges["blocks"] == ["72"]

    registry = WorkerRegistry(client, RedisRetry(settings, threading.Event(), client), model_version="m", clock="wall")
    registry.register()
    assert [each["model_version"] for each in ready_workers(client)] == ["m"]
    states_of_checks = {check.name: check.state for check in doctor.examine(settings)}
    assert {name: states_of_checks[name] for name in ("Redis", "eviction", "users' state", "workers")} == {
        "Redis": "ok",
        "eviction": "ok",
        "users' state": "ok",
        "workers": "ok",
    }
    client.close()

    with Client(settings) as app, ThreadPoolExecutor() as pool:
        waits = [pool.submit(app.wait, viewer, "r", 60) for viewer in viewers[:10]]
        answer_all(settings, viewers)
        assert [wait.result().user_id for wait in waits] == [str(viewer) for viewer in viewers[:10]]
        assert all(app.feed(viewer) for viewer in viewers)

    async def story() -> None:
        async with AsyncClient(settings) as app:
            others = [new_user() for _ in range(30)]
            waits = [asyncio.create_task(app.wait(viewer, "r", 60)) for viewer in others]
            await asyncio.sleep(0.3)
            await asyncio.to_thread(answer_all, settings, others)
            assert [feed.user_id for feed in await asyncio.gather(*waits)] == [str(viewer) for viewer in others]

    asyncio.run(story())


def test_the_loss_of_the_node_that_the_settings_name_is_a_short_outage(
    settings: Settings, cluster: LocalCluster
) -> None:
    before, during, after = ([new_user() for _ in range(20)] for _ in range(3))
    client = connect(settings)
    retry, users = RedisRetry(settings, threading.Event(), client), UserStates(client)
    follow(users, 1)

    async def story() -> None:
        async with AsyncClient(settings) as other:
            with Client(settings) as app:
                answer_all(settings, before)
                waits = [asyncio.create_task(other.wait(viewer, "r", FAILOVER_S)) for viewer in during]
                await asyncio.sleep(0.3)
                cluster.nodes[0].stop()
                await asyncio.to_thread(retry.run, lambda: follow(users, 2))
                await asyncio.to_thread(answer_all, settings, during)
                assert [feed.user_id for feed in await asyncio.gather(*waits)] == [str(viewer) for viewer in during]
                assert cluster.has_failed_over(cluster.nodes[0])
                for viewer in (*before, *during):  # with the clients of before
                    assert (await asyncio.to_thread(app.wait, viewer, "r", FAILOVER_S)).user_id == str(viewer)
                    assert (await other.wait(viewer, "r", FAILOVER_S)).user_id == str(viewer)

    asyncio.run(story())
    assert all(len(state.following) == 2 and state.is_whole for state in retry.run(lambda: users.read(USERS)))
    with Client(settings) as new:  # the first node that the settings name is gone
        answer_all(settings, after)
        for viewer in after:
            assert new.wait(viewer, "r", FAILOVER_S).user_id == str(viewer)
    client.close()


def test_a_slot_that_migrates_loses_no_write(settings: Settings, cluster: LocalCluster) -> None:
    client = connect(settings)
    retry, users = RedisRetry(settings, threading.Event(), client), UserStates(client)
    follow(users, 0)
    first, second = cluster.nodes[0], cluster.nodes[1]
    with redis.Redis(port=first.port) as source, redis.Redis(port=second.port) as target:
        ids = [node.execute_command("CLUSTER MYID") for node in (source, target)]
        keys = [user_key(user) for user in USERS if source.execute_command("CLUSTER KEYSLOT", user) < 5_000]
        slots = {source.execute_command("CLUSTER KEYSLOT", key) for key in keys}
        for slot in slots:
            target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
            source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        for number, key in enumerate(keys, 1):
            source.execute_command("MIGRATE", "127.0.0.1", second.port, key, 0, 5_000)
            retry.run(lambda number=number: follow(users, number))  # type: ignore[misc]
        for slot in slots:
            for node in (target, source):
                node.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
    retry.run(lambda: follow(users, 999))
    assert keys
    states = retry.run(lambda: users.read(USERS))
    assert {len(state.following) for state in states} == {len(keys) + 2}
    assert all(state.is_whole for state in states)
    client.close()


def test_a_primary_that_lost_writes_gets_them_again(settings: Settings, cluster: LocalCluster) -> None:
    client = connect(settings)
    declare_whole(client)
    writer = writer_of(settings)
    writer.write_batch([writes(0)])
    primaries = [each for each in map(client_of, cluster.nodes) if each.info("replication")["role"] == "master"]
    pasts = list(map(Past, primaries))
    writer.write_batch([writes(1), writes(2)])
    for past in pasts:
        past.returns()
        writer.write_batch([idle(3)])
        assert all(following(client, user) == [0, 1, 2] for user in map(str, range(1, 20)))
    for each in primaries:
        each.close()
    client.close()


def test_a_node_of_a_cluster_is_refused_as_a_single_redis(settings: Settings, cluster: LocalCluster) -> None:
    alone = settings.model_copy(update={"redis": cluster.nodes[0].address, "redis_cluster": False})
    with pytest.raises(RedisRefused, match="set FORYOU_REDIS_CLUSTER=true"):
        RedisRetry(alone, threading.Event()).connect()


def test_a_redis_that_is_no_cluster_is_refused_at_once(servers: Settings) -> None:
    settings = servers.model_copy(update={"redis_cluster": True})
    with pytest.raises(RedisRefused, match="FORYOU_REDIS_CLUSTER"):
        RedisRetry(settings, threading.Event()).connect()


def test_a_replica_that_is_promoted_behind_one_address_is_written_again(
    servers: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with EmbeddedRedis(tmp_path_factory.mktemp("a")) as first, EmbeddedRedis(tmp_path_factory.mktemp("b")) as second:
        settings = servers.model_copy(update={"redis": first.address})
        client = RedisRetry(settings, threading.Event()).connect()
        declare_whole(client)
        users = UserStates(client)
        follow(users, 1)
        retry = RedisRetry(settings, threading.Event(), client)
        with redis.Redis(port=first.port) as admin:
            admin.replicaof("127.0.0.1", second.port)  # READONLY from now on
            promoted = threading.Timer(1.0, lambda: redis.Redis(port=first.port).replicaof("NO", "ONE"))
            promoted.start()
            retry.run(lambda: follow(users, 2))
            promoted.join()
        eventually(lambda: all(len(state.following) >= 1 for state in users.read(USERS)))
        client.close()
