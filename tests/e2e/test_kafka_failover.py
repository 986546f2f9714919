"""Three brokers, of which one is killed, all are restarted in turn, and two are away at once, under load.

`make soak` runs it: three brokers take a minute to start.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from feed_worker.client import Client, FeedTimeout, NoFeed
from infra.ports.clock import now_ms
from infra.ports.kafka_admin import create_topics, describe
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from infra.world import WorldConfig, generate
from tests.e2e import containers
from tests.e2e.conftest import LONG_S, eventually
from tests.e2e.derived_state import actual_state, expected_state
from tests.e2e.kafka_cluster import BROKERS, kafka_cluster
from tests.e2e.processes import lag_of, outputs, running, stop
from thunder_ingest.events import Event, unpack_feed_served

pytestmark = pytest.mark.skipif(not os.environ.get("FORYOU_SOAK"), reason="part of `make soak`")

NAMES = ("flows.posts", "flows.engagements", "feed_worker")
EVENTS_A_SECOND, REQUESTS_A_SECOND = 500, 5


@pytest.fixture(scope="module")
def brokers() -> Iterator[list[containers.Server]]:
    with kafka_cluster() as servers:
        yield servers


@pytest.fixture
def own_settings(brokers: list[containers.Server], redis_server: containers.Server) -> Settings:
    settings = Settings(
        kafka=",".join(broker.address for broker in brokers),
        redis=f"redis://{redis_server.address}/0",
        group_prefix="failover",
        replication_factor=BROKERS,
        session_timeout_ms=6_000,
        deadline_ms=LONG_S * 1_000,
        max_wait_ms=LONG_S * 1_000,
    )
    with redis.Redis.from_url(settings.redis) as client:
        client.flushall()
    create_topics(settings)
    assert [state.problem for state in describe(settings) if state.problem] == []
    return settings


class Load:
    """An app in a thread of its own: events and feed requests at a steady rate."""

    def __init__(self, settings: Settings, events: Sequence[Event]) -> None:
        self._settings, self._events, self.requests = settings, iter(events), list[str]()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.published = 0

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with Client(self._settings) as client:
            while not self._stopping.wait(1 / REQUESTS_A_SECOND):
                for _ in range(EVENTS_A_SECOND // REQUESTS_A_SECOND):
                    if (event := next(self._events, None)) is not None:
                        client.publish(event)
                        self.published += 1
                self.requests.append(client.request_feed(1 + len(self.requests) % 50))
            client.flush(LONG_S)


def answered_after_s(client: Client, user: int) -> float:
    """The time until a new request is answered."""
    since = time.monotonic()
    while True:
        with suppress(FeedTimeout, NoFeed):
            client.wait(user, client.request_feed(user), 5.0)
            return time.monotonic() - since


def test_no_process_ends_and_nothing_is_lost_while_brokers_fail(
    own_settings: Settings, brokers: list[containers.Server], tmp_path: Path, valkey: redis.Redis
) -> None:
    world = generate(WorldConfig(seed=7, users=300, posts=5_000, engagements=60_000), now_ms())

    def one_is_killed() -> None:
        brokers[0].kill()
        time.sleep(5.0)
        brokers[0].start()

    def all_are_restarted_in_turn() -> None:
        for broker in brokers:
            broker.stop()
            broker.start()
            time.sleep(2.0)

    def two_are_away() -> None:
        for broker in brokers[:2]:
            broker.stop()
        time.sleep(8.0)
        for broker, since in [(broker, broker.start_only()) for broker in brokers[:2]]:
            broker.wait(since)

    faults: list[Callable[[], None]] = [one_is_killed, all_are_restarted_in_turn, two_are_away]
    with running(own_settings, tmp_path, *NAMES) as processes, Client(own_settings) as client:
        assert answered_after_s(client, 1) < LONG_S
        with Load(own_settings, list(world.events())) as load:
            for fault in faults:
                time.sleep(3.0)
                fault()
                print(f"{fault.__name__}: a feed after {answered_after_s(client, 1):.1f} s")  # noqa: T201
                assert not any(process.has_ended() for process in processes.values()), outputs(processes)
        print(f"{load.published} events, {len(load.requests)} requests")  # noqa: T201

        def all_answered() -> bool:
            served = scan(own_settings, ["feeds-served"])
            ended = {unpack_feed_served(each.value() or b"").request_id for batch in served for each in batch}
            return ended.issuperset(load.requests)

        assert eventually(all_answered), outputs(processes)
        assert eventually(lambda: not any(lag_of(own_settings, name) for name in NAMES[:2])), outputs(processes)
        stop(processes)
    found, expected = (
        actual_state(own_settings, redis.Redis.from_url(own_settings.redis)),
        expected_state(own_settings, valkey),
    )
    for field in found._fields:
        assert getattr(found, field) == getattr(expected, field), field
