"""A Redis Cluster of embedded servers on this machine: three primaries, each with a replica."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from infra.ports.settings import Settings
from infra.stack.embedded import EmbeddedRedis
from tests.infra.waiting import eventually

PRIMARIES = 3
SLOTS = 16_384
NODE_TIMEOUT_MS = 1_000


class LocalCluster:
    """The nodes, primaries first; a killed node may be started again."""

    def __init__(self, directory: Path) -> None:
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)]
        options += ["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"]
        self.nodes = [EmbeddedRedis(directory / str(n), None, options) for n in range(2 * PRIMARIES)]

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        first = self.nodes[0]
        bounds = [SLOTS * n // PRIMARIES for n in range(PRIMARIES + 1)]
        for n, node in enumerate(self.nodes):
            with client_of(node) as client:
                if n < PRIMARIES:
                    client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
                client.execute_command("CLUSTER MEET", "127.0.0.1", first.port)
        for n in range(PRIMARIES, 2 * PRIMARIES):
            self._replicate(self.nodes[n - PRIMARIES], self.nodes[n])
        eventually(lambda: all(self.is_ready(node) for node in self.nodes))

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def address(self, *nodes: int) -> dict[str, str | bool]:
        """The fields of the settings that name these nodes."""
        hosts = ",".join(f"127.0.0.1:{self.nodes[n].port}" for n in nodes)
        return {"redis": f"redis://{hosts}/0", "redis_cluster": True}

    def settings(self, settings: Settings, *nodes: int) -> Settings:
        """Settings that name these nodes."""
        return settings.model_copy(update=self.address(*nodes))

    def is_ready(self, node: EmbeddedRedis) -> bool:
        """True if a node has the whole cluster, and its replica is in step."""
        with client_of(node) as client:
            info = client.execute_command("CLUSTER INFO")
            replication = client.info("replication")
        in_step = replication["role"] == "master" or replication["master_link_status"] == "up"
        return bool(in_step and info["cluster_state"] == "ok" and info["cluster_known_nodes"] == str(len(self.nodes)))

    def has_failed_over(self, lost: EmbeddedRedis) -> bool:
        """True if all slots of a lost node have another primary."""
        (seen_by, *_) = [node for node in self.nodes if node is not lost]
        with client_of(seen_by) as client:
            info = client.execute_command("CLUSTER INFO")
            slots = client.execute_command("CLUSTER SLOTS")
        ports = {int(primary[1]) for _, _, primary, *_ in slots}
        return bool(info["cluster_state"] == "ok" and lost.port not in ports)

    def _replicate(self, primary: EmbeddedRedis, replica: EmbeddedRedis) -> None:
        with client_of(primary) as client:
            name = client.execute_command("CLUSTER MYID")

        def replicated() -> bool:
            try:
                with client_of(replica) as client:
                    client.execute_command("CLUSTER REPLICATE", name)
            except redis.ResponseError:  # it has not met the primary yet
                return False
            return True

        eventually(replicated)


def client_of(node: EmbeddedRedis) -> redis.Redis:
    return redis.Redis(port=node.port)


@contextmanager
def local_cluster(directory: Path) -> Iterator[LocalCluster]:
    cluster = LocalCluster(directory)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
