"""Flows and workers are killed, servers go away: nothing accepted is lost, nothing is counted twice.

`make test` runs these short; FORYOU_SOAK=1 (`make soak`) runs the same code longer.
"""

import itertools
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from bytewax.recovery import init_db_dir

from feed_worker.client import Client
from infra.kafka import FLOW_GROUPS
from infra.kafka_admin import admin, lag
from infra.processes import CHILD
from infra.scan import scan
from infra.settings import Settings
from phoenix.world import WorldConfig, generate
from tests.e2e import containers
from tests.e2e.conftest import eventually, on_servers
from thunder_ingest.counts import CountTable, changes_of
from thunder_ingest.events import (
    Event,
    FeedRequest,
    Post,
    PostEvent,
    unpack_counts,
    unpack_feed_served,
    unpack_post,
)
from thunder_ingest.posts import PostTable, changelog
from thunder_ingest.redis_form import UserStates
from thunder_ingest.user_entries import entries_by_user

SOAK = bool(os.environ.get("FORYOU_SOAK"))
KILLS = 20 if SOAK else 2
ENGAGEMENTS = 150_000 if SOAK else 6_000
POSTS = 20_000 if SOAK else 1_500
SLOW_S = 600.0 if SOAK else 180.0


@pytest.fixture(scope="module")
def own_servers() -> Iterator[tuple[containers.Server, containers.Server]]:
    """Servers that may be stopped without disturbing other tests."""
    with containers.kafka() as kafka, containers.redis_server() as redis_:
        yield kafka, redis_


@pytest.fixture(scope="module")
def own_settings(own_servers: tuple[containers.Server, containers.Server]) -> Settings:
    return on_servers(*own_servers)


def now() -> int:
    return time.time_ns() // 1_000_000


class Process:
    """A process of the product that a test kills; its output goes to a file."""

    def __init__(self, settings: Settings, directory: Path, *arguments: str) -> None:
        self._settings, self._arguments = settings, arguments
        self._log = directory / f"{arguments[-1]}.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                # through the shim that ends it with this process, should that be killed
                [sys.executable, "-I", "-S", str(CHILD), str(os.getpid()), sys.executable, "-m", *self._arguments],
                env=os.environ | self._settings.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int:
        self._process.terminate()
        return self._process.wait(timeout=60)

    def output(self) -> str:
        return self._log.read_text()


@contextmanager
def running(settings: Settings, directory: Path, *names: str) -> Iterator[dict[str, Process]]:
    """Processes of the product by name: flows, each with a recovery store of its own, and workers."""
    started: dict[str, Process] = {}
    try:
        for name in names:
            if name.startswith("flows."):
                store = directory / name
                if not store.exists():
                    store.mkdir()
                    init_db_dir(store, 1)
                started[name] = Process(
                    settings, directory, "bytewax.run", "-r", str(store), "-s", "1", "-b", "0", name
                )
            else:
                started[name] = Process(settings, directory, name)
        yield started
    finally:
        for process in started.values():
            process.kill()


def caught_up(settings: Settings, flow: str, ends: dict[tuple[str, int], int]) -> bool:
    """Whether a flow has finished what was delivered to its topics."""
    own = {part: end for part, end in ends.items() if part[0] in FLOW_GROUPS[flow]}
    return lag(admin(settings), settings, flow, own) == 0


def compacted(settings: Settings, topic: str) -> dict[bytes, bytes | None]:
    """The last value of each key."""
    return {message.key() or b"": message.value() for batch in scan(settings, [topic]) for message in batch}


def expected_posts(events: list[Event]) -> dict[bytes, Post | None]:
    table = PostTable(Settings().max_post_age_ms)
    served: dict[bytes, Post | None] = {}
    for event in events:
        if isinstance(event, PostEvent) and (post := table.apply(event, event.at)):
            key, value, _ = changelog(post)
            served[key] = unpack_post(value) if value else None
    return served


def answered(settings: Settings, *requests: str) -> bool:
    """Whether every request has ended in a status."""
    served = scan(settings, ["feeds-served"])
    ended = {unpack_feed_served(message.value() or b"").request_id for batch in served for message in batch}
    return ended.issuperset(requests)


def outputs(processes: dict[str, Process]) -> dict[str, str]:
    """The end of what each process has said."""
    return {name: process.output()[-3_000:] for name, process in processes.items()}


def test_flows_killed_at_random_moments_end_as_if_nothing_had_happened(
    own_settings: Settings, tmp_path: Path, valkey: redis.Redis
) -> None:
    world = generate(WorldConfig(seed=7, users=300, posts=POSTS, engagements=ENGAGEMENTS), now())
    events = list(world.events())
    flows = ("flows.posts", "flows.engagements")
    moments = random.Random(7)
    with Client(own_settings) as client, running(own_settings, tmp_path, *flows) as processes:
        for index in range(KILLS):
            client.publish(events[index * len(events) // KILLS : (index + 1) * len(events) // KILLS])
            ends = client.flush()
            time.sleep(moments.uniform(1.0, 4.0))
            for process in processes.values():
                process.kill()
                process.start()
        for flow in flows:
            assert eventually(lambda flow=flow: caught_up(own_settings, flow, ends), SLOW_S), processes[flow].output()  # type: ignore[misc]
        for process in processes.values():
            assert process.terminate() == 0, process.output()

    served = {
        key: unpack_post(value) if value else None for key, value in compacted(own_settings, "thunder-posts").items()
    }
    assert served == expected_posts(events)

    by_users = [event for event in events if not isinstance(event, PostEvent | FeedRequest)]
    counts = CountTable(Settings().max_post_age_ms)
    counts.add(changes_of(by_users))
    totals = {key: unpack_counts(value or b"") for key, value in compacted(own_settings, "post-counts").items()}
    assert {record.post_id: record.totals for record in totals.values()} == {
        record.post_id: record.totals for record in counts.drain()
    }

    undisturbed = UserStates(valkey)
    entries = entries_by_user(by_users)
    undisturbed.write(entries, "e0-0")
    users = sorted(entries)
    lived_through = UserStates(redis.Redis.from_url(own_settings.redis))
    for user, found, expected in zip(users, lived_through.read(users), undisturbed.read(users), strict=True):
        for field in ("positions", "following", "blocks", "blocked_by", "mutes", "keywords", "subscriptions", "seen"):
            assert list(getattr(found, field)) == list(getattr(expected, field)), (user, field)


def test_everything_resumes_when_the_broker_and_redis_were_away(
    own_settings: Settings, own_servers: tuple[containers.Server, containers.Server], tmp_path: Path
) -> None:
    kafka, redis_ = own_servers
    names = (*FLOW_GROUPS, "feed_worker")
    viewer, author, newcomers = 900_001, 900_002, itertools.count(900_003)
    with running(own_settings, tmp_path, *names) as processes, Client(own_settings) as client:
        users = UserStates(client.redis)
        client.publish({"type": "follow", "user_id": viewer, "target_id": author, "at": now()})
        assert client.wait(viewer, client.request_feed(viewer), SLOW_S).status in ("ok", "degraded", "empty")
        for server in (redis_, kafka):
            server.stop()
            post_id = time.time_ns()
            post = {"type": "post_created", "post_id": post_id, "author_id": author, "text": "while nobody was there"}
            follow = {"type": "follow", "user_id": next(newcomers), "target_id": author}
            client.publish([post | {"at": now()}, follow | {"at": now()}])
            asked_meanwhile = client.request_feed(viewer)
            time.sleep(3)
            server.start()
            assert eventually(lambda asked=asked_meanwhile: answered(own_settings, asked), SLOW_S), outputs(processes)  # type: ignore[misc]

            def shows(post_id: int = post_id) -> bool:
                newcomer = next(newcomers)
                client.publish({"type": "follow", "user_id": newcomer, "target_id": author, "at": now()})
                assert eventually(lambda: users.read([str(newcomer)])[0].is_known, SLOW_S), outputs(processes)
                # the network alone: what else is popular may rank above a second post of one author
                feed = client.wait(newcomer, client.request_feed(newcomer, in_network_only=True), SLOW_S)
                return str(post_id) in {item.post_id for item in feed.items}

            assert eventually(shows, SLOW_S), outputs(processes)
        for name, server in itertools.product(("feed_worker", "flows.engagements"), (redis_, kafka)):
            said = re.findall(rf"{server.address}\S* is (away|back)", processes[name].output())
            assert said == ["away", "back"], outputs(processes)
        for process in processes.values():
            assert process.terminate() == 0, process.output()


def test_a_worker_that_is_killed_leaves_its_requests_to_the_next(own_settings: Settings, tmp_path: Path) -> None:
    with running(own_settings, tmp_path, "feed_worker") as processes, Client(own_settings) as client:
        requests = [client.request_feed(user) for user in range(1, 200 if SOAK else 40)]
        client.flush()
        time.sleep(random.Random(3).uniform(3.0, 6.0))
        processes["feed_worker"].kill()
        processes["feed_worker"].start()

        assert eventually(lambda: answered(own_settings, *requests), SLOW_S), processes["feed_worker"].output()
