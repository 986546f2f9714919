"""Killed flows, workers and servers: no accepted event is lost, and none is counted twice.

The expected state comes from a single pass over the log. Events are published out of order, and some twice.
`make test` runs a short form. FORYOU_SOAK=1 (`make soak`) runs the same code for longer.
"""

import itertools
import os
import random
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from feed_worker.client import Client
from feed_worker.documents.feed import Feed
from infra.ports.clock import now_ms
from infra.ports.errors import RedisUnreachable
from infra.ports.kafka_config import FLOW_GROUPS
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from infra.world import WorldConfig, generate
from tests.e2e import containers
from tests.e2e.conftest import LONG_S, empty_redis, eventually
from tests.e2e.derived_state import actual_state, expected_state
from tests.e2e.processes import Process, lag_of, outputs, running, stop
from tests.e2e.proxy import Proxy
from thunder_ingest.events import Event, unpack_feed_served
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole

SOAK = bool(os.environ.get("FORYOU_SOAK"))
KILLS = 20 if SOAK else 2
EVENTS = 200_000 if SOAK else 8_000
FEWER = EVENTS // 8
"""The number of events in tests of servers and of rescaling."""
FLOWS = ("flows.posts", "flows.engagements")


@pytest.fixture
def own_settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """Consumer groups for one test, and an empty Redis. Its flows start at the beginning of the log."""
    empty_redis(settings)
    return settings.model_copy(update={"group_prefix": request.node.name})


@pytest.fixture(scope="module")
def events() -> Iterator[Event]:
    """The events of a world in random order, every twentieth twice. Each test takes its share."""
    whole = EVENTS + 3 * FEWER  # the number of engagements; posts and the graph come on top
    world = generate(WorldConfig(seed=7, users=300, posts=whole // 8, engagements=whole), now())
    events, random_ = list(world.events()), random.Random(7)
    events += random_.sample(events, len(events) // 20)
    random_.shuffle(events)
    return iter(events)


def now() -> int:
    return now_ms()


def shares(events: Sequence[Event], number: int) -> list[Sequence[Event]]:
    """The events in equal parts."""
    return [events[index * len(events) // number : (index + 1) * len(events) // number] for index in range(number)]


def publish(client: Client, events: Sequence[Event], during_s: float) -> None:
    """Publish one malformed message, and then events evenly over some seconds."""
    client.publish_raw("posts", b"7", b'{"type":"post_eaten"}')
    pieces = 20
    for piece in shares(events, pieces):
        client.publish(piece)
        time.sleep(during_s / pieces)


def assert_expected_state(settings: Settings, valkey: redis.Redis) -> None:
    found, expected = actual_state(settings), expected_state(settings, valkey)
    for field in found._fields:
        assert getattr(found, field) == getattr(expected, field), field
    assert any(found.in_network.values()), "no user has an in-network post"


def counts_and_users(settings: Settings) -> tuple[dict[int, list[int]], dict[str, dict[str, list[Any]]]]:
    """The totals of all posts, and the state of all users, once they are written."""
    state = actual_state(settings)
    return state.counts, state.users


def assert_progress(settings: Settings, client: Client, processes: dict[str, Process], events: Sequence[Event]) -> None:
    """Publish events and wait until the lag of each flow shrinks."""
    client.publish(events)
    client.flush()
    before = {flow: lag_of(settings, flow) for flow in FLOWS}
    assert eventually(lambda: all(lag_of(settings, flow) < max(1, before[flow]) for flow in FLOWS)), outputs(processes)


def assert_no_lag(settings: Settings, client: Client, processes: dict[str, Process], events: Sequence[Event]) -> None:
    """Publish events and wait until the flows have processed all events."""
    client.publish(events)
    client.flush()
    assert eventually(lambda: not any(lag_of(settings, flow) for flow in FLOWS)), outputs(processes)


def answered(settings: Settings, *requests: str) -> bool:
    """True if every request has ended in a status."""
    served = scan(settings, ["feeds-served"])
    ended = {unpack_feed_served(message.value() or b"").request_id for batch in served for message in batch}
    return ended.issuperset(requests)


def test_flows_killed_at_random_times_reach_the_expected_state(
    own_settings: Settings, events: Iterator[Event], tmp_path: Path, valkey: redis.Redis
) -> None:
    moments = random.Random(7)
    with Client(own_settings) as client, running(own_settings, tmp_path, *FLOWS) as processes:
        for share in shares([*itertools.islice(events, EVENTS)], KILLS):
            first, *rest = shares(share, 1 + len(FLOWS))
            assert_progress(own_settings, client, processes, first)
            for flow, more in zip(moments.sample(FLOWS, len(FLOWS)), rest, strict=True):
                publish(client, more, moments.uniform(0.0, 1.5))
                processes[flow].kill()
                processes[flow].start()
        assert_no_lag(own_settings, client, processes, [])
        stop(processes)
    assert_expected_state(own_settings, valkey)


def test_a_log_once_three_times_over_or_with_every_message_doubled_gives_the_same_counts_and_users(
    own_settings: Settings, events: Iterator[Event], tmp_path: Path, valkey: redis.Redis
) -> None:
    log = [*itertools.islice(events, FEWER)]
    with Client(own_settings) as client, running(own_settings, tmp_path, *FLOWS) as processes:
        assert_no_lag(own_settings, client, processes, log)
        once = counts_and_users(own_settings)
        for again in (log, log, [event for each in log for event in (each, each)]):
            assert_no_lag(own_settings, client, processes, again)
        stop(processes)
    assert counts_and_users(own_settings) == once
    assert_expected_state(own_settings, valkey)


def test_a_killed_broker_loses_and_duplicates_no_event(
    own_settings: Settings,
    kafka_server: containers.Server,
    events: Iterator[Event],
    tmp_path: Path,
    valkey: redis.Redis,
) -> None:
    before, meanwhile, after = shares([*itertools.islice(events, FEWER)], 3)
    with Client(own_settings) as client, running(own_settings, tmp_path, *FLOWS) as processes:
        publish(client, before, 3.0)
        kafka_server.kill()
        publish(client, meanwhile, 2.0)
        kafka_server.start()
        assert_no_lag(own_settings, client, processes, after)
        stop(processes)
    assert_expected_state(own_settings, valkey)


def test_an_emptied_redis_is_rebuilt_from_the_log_while_events_arrive(
    own_settings: Settings, events: Iterator[Event], tmp_path: Path, valkey: redis.Redis
) -> None:
    before, emptied, rebuilding, after = shares([*itertools.islice(events, FEWER)], 4)
    with Client(own_settings) as client, running(own_settings, tmp_path, *FLOWS) as processes:
        assert_no_lag(own_settings, client, processes, before)
        client.redis.flushall()
        publish(client, emptied, 1.0)
        rebuild = Process(own_settings, tmp_path / "rebuild.log", "infra.cli", "rebuild", "users")
        publish(client, rebuilding, 3.0)
        assert rebuild.wait(LONG_S) == 0, rebuild.output()
        assert_no_lag(own_settings, client, processes, after)
        stop(processes)
    assert_expected_state(own_settings, valkey)


def test_flows_rescaled_from_one_process_to_two_and_back_lose_and_duplicate_no_event(
    own_settings: Settings, events: Iterator[Event], tmp_path: Path, valkey: redis.Redis
) -> None:
    one, stopped, two, restarted, killed, one_again = shares([*itertools.islice(events, FEWER)], 6)
    with Client(own_settings) as client:
        with running(own_settings, tmp_path, *FLOWS) as processes:
            assert_no_lag(own_settings, client, processes, one)
            client.publish(stopped)
            stop(processes)
        with running(own_settings, tmp_path, *FLOWS, processes=2) as processes:
            assert_no_lag(own_settings, client, processes, two)
            for flow in FLOWS:
                processes[f"{flow}-1"].kill()
                assert processes[f"{flow}-0"].wait() != 0  # a cluster ends as a whole
            for process in processes.values():
                process.start()
            assert_no_lag(own_settings, client, processes, restarted)
            client.publish(killed)  # the next cluster processes the unfinished events again
        with running(own_settings, tmp_path, *FLOWS) as processes:
            assert_no_lag(own_settings, client, processes, one_again)
            stop(processes)
    assert_expected_state(own_settings, valkey)


def test_flows_and_workers_resume_after_an_outage_of_redis_and_of_the_broker(
    own_settings: Settings, kafka_server: containers.Server, redis_server: containers.Server, tmp_path: Path
) -> None:
    names = (*FLOW_GROUPS, "feed_worker")
    viewer, author, newcomers = 900_001, 900_002, itertools.count(900_003)
    with running(own_settings, tmp_path, *names) as processes, Client(own_settings) as client:
        users = UserStates(client.redis)
        client.publish({"type": "follow", "user_id": viewer, "target_id": author, "at": now()})
        assert client.wait(viewer, client.request_feed(viewer), LONG_S).status in ("ok", "degraded", "empty")
        for server in (redis_server, kafka_server):
            server.stop()
            post_id = time.time_ns()
            post = {"type": "post_created", "post_id": post_id, "author_id": author, "text": "during an outage"}
            follow = {"type": "follow", "user_id": next(newcomers), "target_id": author}
            client.publish([post | {"at": now()}, follow | {"at": now()}])
            request = client.request_feed(viewer)
            time.sleep(3)
            server.start()
            assert eventually(lambda request=request: answered(own_settings, request)), outputs(processes)  # type: ignore[misc]

            def shows(post_id: int = post_id) -> bool:
                newcomer = next(newcomers)
                client.publish({"type": "follow", "user_id": newcomer, "target_id": author, "at": now()})
                assert eventually(lambda: users.read([str(newcomer)])[0].is_known), outputs(processes)
                # in-network only: popular posts may rank above a second post of one author
                feed = client.wait(newcomer, client.request_feed(newcomer, in_network_only=True), LONG_S)
                return str(post_id) in {item.post_id for item in feed.items}

            assert eventually(shows), outputs(processes)
        for name, server in itertools.product(("feed_worker", "flows.engagements"), (redis_server, kafka_server)):
            reports = re.findall(rf"{server.address}\S* is (unreachable|reachable)", processes[name].output())
            # on a busy machine, a timeout may report the server as unreachable a second time
            assert reports, outputs(processes)
            assert reports == ["unreachable", "reachable"] * (len(reports) // 2), outputs(processes)
        stop(processes)


def test_requests_of_a_killed_worker_are_answered_after_its_restart(own_settings: Settings, tmp_path: Path) -> None:
    with running(own_settings, tmp_path, "feed_worker") as processes, Client(own_settings) as client:
        declare_whole(client.redis)
        requests = [client.request_feed(user) for user in range(1, 200 if SOAK else 40)]
        client.flush()
        time.sleep(random.Random(3).uniform(3.0, 6.0))
        processes["feed_worker"].kill()
        processes["feed_worker"].start()

        assert eventually(lambda: answered(own_settings, *requests)), processes["feed_worker"].output()


def test_a_client_gets_its_feed_from_a_slow_redis_and_after_an_outage_by_waiting_again(
    own_settings: Settings, redis_server: containers.Server, tmp_path: Path
) -> None:
    with Proxy(redis_server.port) as proxy, ThreadPoolExecutor() as pool:
        slowed = own_settings.model_copy(update={"redis": f"redis://{proxy.address}/0"})
        with running(slowed, tmp_path, "feed_worker") as processes, Client(slowed) as client:
            declare_whole(client.redis)
            worker = processes["feed_worker"]
            assert client.wait(1, client.request_feed(1), LONG_S)

            def wait(request: str) -> Feed:
                while True:
                    try:
                        return client.wait(1, request, LONG_S)
                    except RedisUnreachable:
                        time.sleep(0.1)  # the request stays in Kafka

            def slow() -> None:
                proxy.slow(0.2)

            def stalled() -> None:
                proxy.stall()
                time.sleep(2.0)
                proxy.resume()

            def restarted() -> None:
                redis_server.kill()
                time.sleep(1.0)
                redis_server.start()

            for inject in (slow, stalled, restarted):
                worker.freeze()  # the answer must not arrive before the fault
                request = client.request_feed(1)
                waiting = pool.submit(wait, request)
                time.sleep(0.5)
                inject()
                worker.thaw()
                assert waiting.result().status in ("ok", "degraded", "empty"), worker.output()
                proxy.resume()
            stop(processes)
