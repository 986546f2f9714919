"""Administration of Kafka: create and describe topics, compute the lag of a consumer group."""

import time
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Self, TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

# the stubs do not export two of these documented names
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    PartitionMetadata,
)

from infra.ports.consumer import IDLE_S, SETTLE_S, close_soon, partitions_of, watermarks
from infra.ports.errors import BrokerUnreachable, ForYouError, TopicMissing
from infra.ports.kafka_config import client_config, consumer_config, group
from infra.ports.settings import Settings
from infra.ports.topics import TOPICS

Part: TypeAlias = tuple[str, int]
Offsets: TypeAlias = dict[Part, int]
"""The offset after the last message, by topic and partition."""

TIMEOUT_S = 10.0


class TopicError(ForYouError, RuntimeError):
    """The broker refused to create a topic."""


class TopicState(NamedTuple):
    """A topic on the broker; `partitions` is 0 if it does not exist.

    Attributes:
        wrong: the settings that break what the system relies on, with the values that they must have.
        problem: the differences from the expected topic and their remedy; empty if there is none.

    """

    name: str
    partitions: int
    cleanup_policy: str
    retention_ms: str
    replicas: int
    wrong: dict[str, str]
    problem: str


def admin(settings: Settings) -> AdminClient:
    """Return a client for administration."""
    return AdminClient(client_config(settings))


def cluster_id(settings: Settings) -> str:
    """Return the id of the Kafka cluster; raises `BrokerUnreachable`."""
    try:
        return str(admin(settings).list_topics(timeout=TIMEOUT_S).cluster_id)
    except KafkaException as error:
        raise BrokerUnreachable(f"Kafka at {settings.kafka}: {error.args[0].str()}") from None


def ensure_reachable(settings: Settings, timeout_s: float = 5.0) -> None:
    """Raise `BrokerUnreachable`, with the address and the remedy, if no broker answers."""
    partitions_of(settings, (), timeout_s)


def create_topics(settings: Settings) -> list[str]:
    """Create the topics that do not exist.

    Returns:
        the names of the created topics.

    Raises:
        BrokerUnreachable: with the address and the remedy.
        TopicError: with the broker's reason.

    """
    ensure_reachable(settings)
    wanted = [
        NewTopic(
            topic.name,
            num_partitions=settings.partitions,
            replication_factor=settings.replication_factor,
            config=topic.config_for(settings.replication_factor),
        )
        for topic in TOPICS.values()
    ]
    client = admin(settings)  # referenced until its futures are done: a collected client cancels them
    created = client.create_topics(wanted, operation_timeout=TIMEOUT_S, request_timeout=2 * TIMEOUT_S)
    new = [name for name, future in created.items() if _was_created(name, future.exception())]
    _wait_until_known(settings)
    return new


def _wait_until_known(settings: Settings) -> None:
    """Wait until the broker lists the topics: it confirms a creation before its metadata shows it."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            partitions_of(settings, TOPICS)
        except TopicMissing:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _was_created(name: str, error: BaseException | None) -> bool:
    if error is None:
        return True
    if isinstance(error, KafkaException) and error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
        return False
    raise TopicError(f"Kafka refused to create the topic {name}: {_reason(error)}")


def _reason(error: BaseException) -> str:
    return str(error.args[0].str()) if isinstance(error, KafkaException) else str(error) or type(error).__name__


def describe(settings: Settings) -> list[TopicState]:
    """Describe the topics on the broker; raises `BrokerUnreachable`, and `TopicError` without permission."""
    ensure_reachable(settings)
    client = admin(settings)
    known = client.list_topics(timeout=TIMEOUT_S).topics
    existing = [name for name in TOPICS if name in known and known[name].partitions]
    configs: dict[str, dict[str, str]] = {}
    if existing:
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in existing]
        futures = client.describe_configs(resources, request_timeout=TIMEOUT_S)
        for resource, future in futures.items():
            if error := future.exception():
                raise TopicError(f"Kafka does not describe the topic {resource.name}: {_reason(error)}")
            configs[resource.name] = {entry.name: entry.value for entry in future.result().values()}
    return [
        _state(name, known[name].partitions if name in existing else {}, configs.get(name, {}), settings)
        for name in TOPICS
    ]


def _state(
    name: str, partitions: Mapping[int, PartitionMetadata], config: Mapping[str, str], settings: Settings
) -> TopicState:
    wanted = TOPICS[name].config_for(settings.replication_factor)
    # the embedded broker reports only the settings that it has
    wrong = {key: value for key, value in wanted.items() if key in config and not _is_enough(key, config[key], value)}
    replicas = min((len(each.replicas) for each in partitions.values()), default=0)
    problems = [f"{key} is {config[key]}, not {value}" for key, value in wrong.items()]
    if problems:
        problems[-1] += ": `foryou topics --repair`"
    if not partitions:
        problems = ["missing: `foryou topics --create`"]
    elif replicas < settings.replication_factor:
        problems.append(
            f"{replicas} replicas, not {settings.replication_factor}: kafka-reassign-partitions.sh adds replicas"
        )
    retention_ms = config.get("retention.ms", "")
    return TopicState(
        name, len(partitions), config.get("cleanup.policy", ""), retention_ms, replicas, wrong, "; ".join(problems)
    )


_AT_LEAST: Final = {"retention.ms", "delete.retention.ms", "min.insync.replicas"}
_AT_MOST: Final = {"segment.ms", "max.compaction.lag.ms"}
"""Settings that an operator may raise, or lower, without harm."""


def _is_enough(key: str, value: str, wanted: str) -> bool:
    if value == wanted:
        return True
    if key == "retention.ms" and "-1" in (value, wanted):  # without limit
        return value == "-1"
    if key in _AT_LEAST:
        return int(value) >= int(wanted)
    return key in _AT_MOST and int(value) <= int(wanted)


def repair_topics(settings: Settings) -> list[str]:
    """Set the topic settings that break what the system relies on.

    Returns:
        `TOPIC: KEY=VALUE` for each changed setting.

    Raises:
        BrokerUnreachable: with the address and the remedy.
        TopicError: with the broker's reason.

    """
    wrong = {state.name: state.wrong for state in describe(settings) if state.wrong}
    resources = [
        ConfigResource(
            ConfigResource.Type.TOPIC,
            name,
            incremental_configs=[
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in entries.items()
            ],
        )
        for name, entries in wrong.items()
    ]
    client = admin(settings)
    futures = client.incremental_alter_configs(resources, request_timeout=TIMEOUT_S) if resources else {}
    for resource, future in futures.items():
        if error := future.exception():
            raise TopicError(f"Kafka refused to change the topic {resource.name}: {_reason(error)}")
    return [f"{name}: {key}={value}" for name, entries in wrong.items() for key, value in entries.items()]


class CommittedOffsets:
    """Reads the committed offsets of a consumer group without joining it; a context manager.

    The admin client is not used: librdkafka before 2.11 ends the process if a broker that has just started answers its
    query with "not coordinator" (issue 5040). A consumer repeats the query.
    """

    def __init__(self, settings: Settings, group_id: str) -> None:
        self._settings = settings
        self._consumer = Consumer(client_config(settings) | {"group.id": group_id, "enable.auto.commit": False})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        close_soon(self._consumer)

    def of(self, parts: Iterable[Part]) -> Offsets:
        """Return the committed offset of each partition that has one.

        Raises:
            BrokerUnreachable: with the address and the reason.

        """
        try:
            found = self._consumer.committed([TopicPartition(*part) for part in parts], timeout=TIMEOUT_S)
        except KafkaException as error:
            raise BrokerUnreachable(f"Kafka at {self._settings.kafka}: {error.args[0].str()}") from None
        return {(part.topic, part.partition): part.offset for part in found if part.offset >= 0}

    def lag(self, ends: Mapping[Part, int]) -> int:
        """Return the number of messages before `ends` that are not committed; an empty mapping needs no request."""
        committed = self.of(ends) if ends else {}
        return sum(max(0, end - committed.get(part, 0)) for part, end in ends.items())


def lag(settings: Settings, name: str, ends: Mapping[Part, int]) -> int:
    """Return the number of messages before `ends` that a consumer group has not committed.

    Args:
        settings: address and group prefix.
        name: a flow (`flows.posts`) or the workers (`feed-worker`).
        ends: offset after the last message, by topic and partition.

    Raises:
        BrokerUnreachable: with the address and the reason.

    """
    with CommittedOffsets(settings, group(settings, name)) as offsets:
        return offsets.lag(ends)


def ends_of(settings: Settings, topics: Iterable[str], idle_s: float = IDLE_S) -> Offsets:
    """Return the exact current ends of topics.

    It reads on from the high watermark until no message arrives: see `infra.ports.consumer.SETTLE_S`.
    """
    topics = tuple(topics)
    if not topics:
        return {}
    consumer = Consumer(consumer_config(settings, group(settings, "ends")) | {"auto.offset.reset": "latest"})
    try:
        ends = _watermarks(consumer, partitions_of(settings, topics))
        consumer.assign([TopicPartition(topic, part, end - 1) for (topic, part), end in ends.items()])
        quiet_since = time.monotonic()
        settled_at = quiet_since + SETTLE_S  # other producers may continue
        while ends and time.monotonic() < min(quiet_since + idle_s, settled_at):
            for message in consumer.consume(5_000, 0.05):
                if message.error() is None:
                    part = (message.topic() or "", message.partition() or 0)
                    ends[part] = max(ends[part], (message.offset() or 0) + 1)
                    quiet_since = time.monotonic()
        return ends
    finally:
        close_soon(consumer)


def _watermarks(consumer: Consumer, partitions: Mapping[str, Iterable[int]]) -> Offsets:
    ends: Offsets = {}
    for topic, parts in partitions.items():
        for part in parts:
            low, high = watermarks(consumer, TopicPartition(topic, part))
            if high > low:
                ends[topic, part] = high
    return ends
