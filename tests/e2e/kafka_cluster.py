"""Three brokers of Kafka in containers: replication 3, two replicas for each acknowledged message."""

import contextlib
import time
from collections.abc import Iterator

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.e2e.containers import KAFKA_IMAGE, Server, free_port, on_loopback

BROKERS = 3


@contextlib.contextmanager
def kafka_cluster() -> Iterator[list[Server]]:
    """The brokers; each is also a controller (KRaft). A test that stops one must start it again."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(Network())
        names = [f"kafka-{number}-{time.time_ns()}" for number in range(1, BROKERS + 1)]
        voters = ",".join(f"{number}@{name}:9093" for number, name in enumerate(names, 1))
        servers = [
            Server(_broker(number, name, voters, network, port := free_port()), port, "Kafka Server started")
            for number, name in enumerate(names, 1)
        ]
        for server in servers:
            stack.enter_context(server.container)
        for server in servers:
            server.wait()
        yield servers


def _broker(number: int, name: str, voters: str, network: Network, port: int) -> DockerContainer:
    environment = {
        "NODE_ID": f"{number}",
        "PROCESS_ROLES": "broker,controller",
        "LISTENERS": "INTERNAL://:9092,EXTERNAL://:9094,CONTROLLER://:9093",
        "ADVERTISED_LISTENERS": f"INTERNAL://{name}:9092,EXTERNAL://127.0.0.1:{port}",
        "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "INTER_BROKER_LISTENER_NAME": "INTERNAL",
        "LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT",
        "CONTROLLER_QUORUM_VOTERS": voters,
        "OFFSETS_TOPIC_REPLICATION_FACTOR": f"{BROKERS}",
        "OFFSETS_TOPIC_NUM_PARTITIONS": "4",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "AUTO_CREATE_TOPICS_ENABLE": "false",
        "HEAP_OPTS": "-Xms320m -Xmx320m",
    }
    container = on_loopback(
        DockerContainer(KAFKA_IMAGE).with_network(network).with_network_aliases(name), "9094/tcp", port
    )
    for key, value in environment.items():
        container = container.with_env(f"KAFKA_{key}", value)
    return container.with_env("CLUSTER_ID", "4L6g3nShT-eMCtK--X86sw")
