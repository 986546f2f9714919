"""Servers and workers that end or are emptied: no accepted event and no request is lost.

The expected state comes from a single pass over the log. `make test` runs a short form. FORYOU_SOAK=1 (`make soak`)
runs the same code for longer.
"""

import itertools
import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from feed_worker.client import Client
from feed_worker.documents.feed import Feed
from infra.ports.clock import now_ms as now
from infra.ports.errors import RedisUnreachable
from infra.ports.kafka_config import FLOW_GROUPS
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from tests.e2e import containers
from tests.e2e.conftest import LONG_S, eventually
from tests.e2e.event_log import (
    FEWER,
    FLOWS,
    SOAK,
    assert_expected_state,
    assert_no_lag,
    publish,
    shares,
    shuffled_events,
)
from tests.e2e.processes import Process, outputs, running, stop
from tests.e2e.proxy import Proxy
from thunder_ingest.events import Event, unpack_feed_served
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole


@pytest.fixture(scope="module")
def events() -> Iterator[Event]:
    """Each test takes its share."""
    return iter(shuffled_events(2 * FEWER))


def answered(settings: Settings, *requests: str) -> bool:
    """True if every request has ended in a status."""
    served = scan(settings, ["feeds-served"])
    ended = {unpack_feed_served(message.value() or b"").request_id for batch in served for message in batch}
    return ended.issuperset(requests)


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
