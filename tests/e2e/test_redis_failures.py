"""A Redis without memory, without disk, and one whose primary is killed, each under load.

`make test` runs a short form. FORYOU_SOAK=1 (`make soak`) runs the same code for longer.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from infra.ports.settings import Settings
from tests.e2e.conftest import CLUSTER, eventually
from tests.e2e.containers import REDIS_IMAGE, Server, SmallDisk, free_port, on_loopback, small_disk
from tests.e2e.load import Trial, survive, under_load
from tests.e2e.proxy import Proxy

SOAK = bool(os.environ.get("FORYOU_SOAK"))
ROUNDS, FAULT_S, ENGAGEMENTS = (3, 10.0, 90_000) if SOAK else (1, 1.0, 4_000)
DISK_MIB, LEFT_KIB, LEFT_BYTES = 64, 128, 128 << 10


class RedisPair(NamedTuple):
    """A primary, and a server that becomes its replica, behind one address. The disk is that of the first."""

    first: Server
    second: Server
    disk: SmallDisk
    proxy: Proxy

    def fill_memory(self, trial: Trial) -> float:
        with redis.Redis(port=self.first.port) as client:
            client.config_set("maxmemory", client.info("memory")["used_memory"] + LEFT_BYTES)
            trial.fails("Redis", FAULT_S)
            client.config_set("maxmemory", 0)
        return time.monotonic()

    def fill_disk(self, trial: Trial) -> float:
        self.disk.fill(LEFT_KIB)
        trial.fails("Redis", FAULT_S)
        self.disk.free()
        return time.monotonic()

    def fail_over(self, trial: Trial) -> float:
        with redis.Redis(port=self.second.port) as replica:
            replica.replicaof(FIRST, 6379)
            assert eventually(lambda: replica.info("replication").get("master_link_status") == "up")
            self.first.kill()
            trial.fails("Redis", FAULT_S)
            replica.replicaof("NO", "ONE")
        self.proxy.redirect(self.second.port)
        return time.monotonic()


FIRST = "first"


@pytest.fixture
def pair() -> Iterator[RedisPair]:
    with ExitStack() as stack:
        network, disk = stack.enter_context(Network()), stack.enter_context(small_disk(DISK_MIB))

        def server(name: str) -> Server:
            port, options = free_port(), "--appendonly yes --appendfsync everysec --repl-diskless-sync-delay 0"
            if name == FIRST:
                options += " --dir /disk"
            command = f"redis-server --bind 0.0.0.0 --protected-mode no {options}"
            container = DockerContainer(REDIS_IMAGE).with_command(command)
            container = on_loopback(container.with_network(network).with_network_aliases(name), "6379/tcp", port)
            if name == FIRST:
                disk.mount(container, "/disk")
            running = Server(stack.enter_context(container), port, "Ready to accept connections")
            running.wait()
            return running

        first, second = server(FIRST), server("second")
        yield RedisPair(first, second, disk, stack.enter_context(Proxy(first.port)))


@pytest.mark.skipif(CLUSTER, reason="the Redis of this test is no cluster; tests/feed_worker/test_redis_cluster.py is")
def test_no_process_ends_and_nothing_is_lost_while_redis_is_full_or_fails_over(
    settings: Settings, pair: RedisPair, tmp_path: Path, valkey: redis.Redis
) -> None:
    address = {"redis": f"redis://{pair.proxy.address}/0", "http_port": free_port()}
    with under_load(settings.model_copy(update=address), tmp_path, valkey, ENGAGEMENTS) as trial:
        for _ in range(ROUNDS):
            survive(trial, pair.fill_memory, pair.fill_disk)
        survive(trial, pair.fail_over)
