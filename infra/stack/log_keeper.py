"""The log keeper: runs the embedded broker, which stores in memory alone, and keeps its log on disk.

`python -m infra.stack.log_keeper OPTIONS`, with `Options` as JSON. Its parent is `foryou up`.

1. Start the broker on a private port and restore topics, records and group offsets from disk. All offsets are as
   before. The public port is closed to other processes meanwhile: their records would get in between.
2. Create the topics that are missing, write `status.json` and open the public port.
3. Follow all topics and append their records to the log file.
4. On SIGTERM, or once the parent is gone, even by SIGKILL: close the public port, follow to the end of the log, sync,
   write `clean`, stop the broker. So no record that the broker accepted is lost.

Without `clean` the last records may be missing, for instance after a power cut. State that was derived from them is
then ahead of the log, and must be derived again.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Message,
    TopicPartition,
)

# documented there, though its stubs do not export two of them
from confluent_kafka.admin import AdminClient, ConfigResource

from infra.ports.errors import ForYouError
from infra.stack.broker_log import BrokerLog, Entry, Record, TopicCreated
from infra.stack.broker_restore import TIMEOUT_S, GroupOffsets, Part, client_config, create, restore
from infra.stack.embedded import EmbeddedKafka
from infra.stack.port_forwarder import PortForwarder

BATCH_MESSAGES: Final = 10_000
POLL_S: Final = 0.2
FETCH_WAIT_MS: Final = 200
SYNC_EVERY_S: Final = 0.25
LOOK_EVERY_S: Final = 1.0
"""The time between two looks for new topics and committed offsets."""


class LogIncomplete(ForYouError, RuntimeError):
    """The broker has records that the log keeper could not read before the stop."""


class Options(msgspec.Struct, frozen=True):
    """The arguments of the process."""

    directory: str
    port: int
    cluster_id: str
    topics: list[TopicCreated]
    """Created if they are missing."""
    parent: int


class Status(msgspec.Struct, frozen=True):
    """The result of the restore."""

    records: int
    size_bytes: int
    seconds: float


def main() -> None:
    """Keep the log of a broker until SIGTERM, or until the parent is gone. An error is one line and exit code 1."""
    options = msgspec.json.decode(sys.argv[1], type=Options)
    try:
        _keep(options)
    except ForYouError as error:
        sys.exit(f"foryou: {error}")
    except (OSError, KafkaException) as error:
        sys.exit(f"foryou: the log keeper of {options.directory} stopped: {error}")


def _keep(options: Options) -> None:
    stops: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stops.append(number))
    directory = Path(options.directory)
    address = f"127.0.0.1:{options.port}"
    began = time.monotonic()
    with (
        BrokerLog(log_path(directory)) as log,
        EmbeddedKafka(directory, advertised_port=options.port, cluster_id=options.cluster_id) as broker,
        PortForwarder(options.port, broker.port) as forwarder,
    ):
        is_whole = clean_marker(directory).exists()
        ends = restore(log, address, _groups(directory), broker.check, is_whole=is_whole)
        clean_marker(directory).unlink(missing_ok=True)  # not earlier: a damaged log stays an error at the next start
        keeper = LogKeeper(log, address, directory, ends)
        keeper.create(options.topics)
        _replace(status_path(directory), msgspec.json.encode(keeper.status(time.monotonic() - began)))
        forwarder.open()
        keeper.follow(lambda: bool(stops) or os.getppid() != options.parent, broker.check)
        forwarder.close()
        keeper.finish(broker.check)
    clean_marker(directory).touch()


def log_path(directory: Path) -> Path:
    """The log file."""
    return directory / "records.log"


def clean_marker(directory: Path) -> Path:
    """The file that exists while the log is whole and not in use."""
    return directory / "clean"


def status_path(directory: Path) -> Path:
    """The file that exists once the broker may be used."""
    return directory / "status.json"


def _groups_path(directory: Path) -> Path:
    return directory / "groups.json"


def _groups(directory: Path) -> GroupOffsets:
    path = _groups_path(directory)
    return msgspec.json.decode(path.read_bytes(), type=GroupOffsets) if path.exists() else {}


class LogKeeper:
    """Appends to the log what the broker accepts. One thread.

    Args:
        log: read to its end.
        address: of the broker.
        directory: gets the committed offsets.
        ends: of each partition the offset after the last record that is in the log.

    """

    def __init__(self, log: BrokerLog, address: str, directory: Path, ends: dict[Part, int]) -> None:
        self._log, self._directory, self._next = log, directory, ends
        self._admin = AdminClient(client_config(address))
        self._consumer = Consumer(
            client_config(address)
            | {
                "group.id": "foryou.log-keeper",  # required, and not used
                "enable.auto.commit": False,
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "fetch.queue.backoff.ms": 5,
                "queued.max.messages.kbytes": 16_384,
            }
        )
        self._groups: GroupOffsets = {}
        self._assign(ends)

    def create(self, topics: Iterable[TopicCreated]) -> None:
        """Create the topics that are missing, and log all that are new."""
        known = {topic for topic, _ in self._next}
        missing = {topic.topic: topic for topic in topics if topic.topic not in known}
        create(self._admin, [*missing.values()])
        while missing.keys() - {topic for topic, _ in self._next}:  # the broker's metadata lags behind its answer
            self._look_at_topics()

    def status(self, seconds: float) -> Status:
        """The result of a restore that took some seconds."""
        return Status(sum(self._next.values()), self._log.size_bytes, seconds)

    def follow(self, stopping: Callable[[], bool], check: Callable[[], None]) -> None:
        """Append until `stopping`; `check` raises once the broker has ended."""
        synced = looked = time.monotonic()
        while not stopping():
            check()
            self._append(POLL_S)
            now = time.monotonic()
            if now - synced > SYNC_EVERY_S:
                synced = now
                self._log.sync()
            if now - looked > LOOK_EVERY_S:
                looked = now
                self._look_at_topics()
                self._look_at_groups()

    def finish(self, check: Callable[[], None]) -> None:
        """Append the rest of the records, once all producers are disconnected.

        Args:
            check: raises once the broker has ended.

        Raises:
            LogIncomplete: no further record arrives, though the broker has more.

        """
        self._look_at_topics()
        ends = {
            part: self._consumer.get_watermark_offsets(TopicPartition(*part), timeout=TIMEOUT_S)[1]
            for part in self._next
        }
        deadline = time.monotonic() + TIMEOUT_S
        # the broker's watermark is one after the first record of the last batch, and a batch is fetched as a whole
        while late := [f"{topic}[{part}]" for (topic, part), end in ends.items() if self._next[topic, part] < end]:
            check()
            if self._append(POLL_S):
                deadline = time.monotonic() + TIMEOUT_S
            elif time.monotonic() > deadline:
                raise LogIncomplete(
                    f"no record of {', '.join(late)} arrived for {TIMEOUT_S:g} s: the log in {self._directory} may "
                    "lack the last ones; the next start derives all state from the log again"
                )
        while self._append(POLL_S):
            check()
        self._look_at_groups()
        self._consumer.close()

    def _append(self, timeout_s: float) -> bool:
        records: list[Entry] = []
        for message in self._consumer.consume(BATCH_MESSAGES, timeout_s):
            error = message.error()
            if error is None:
                records.append(record := _record_of(message))
                self._next[record.topic, record.partition] = record.offset + 1
            elif not error.retriable():
                raise KafkaException(error)
        if records:
            self._log.append(records)
        return bool(records)

    def _look_at_topics(self) -> None:
        found = {
            name: len(topic.partitions) for name, topic in self._admin.list_topics(timeout=TIMEOUT_S).topics.items()
        }
        known = {topic for topic, _ in self._next}
        if new := {name: partitions for name, partitions in found.items() if name not in known and partitions}:
            self._log.append(_described(self._admin, new))
            self._next |= {(name, part): 0 for name, partitions in new.items() for part in range(partitions)}
            self._assign(self._next)

    def _assign(self, ends: dict[Part, int]) -> None:
        self._consumer.assign([TopicPartition(*part, next_ or OFFSET_BEGINNING) for part, next_ in ends.items()])

    def _look_at_groups(self) -> None:
        groups = {
            each.group_id: _committed(self._admin, each.group_id)
            for each in self._admin.list_consumer_groups().result().valid
        }
        if groups != self._groups:
            self._groups = groups
            _replace(_groups_path(self._directory), msgspec.json.encode(groups))


def _described(admin: AdminClient, topics: dict[str, int]) -> list[TopicCreated]:
    asked = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name) for name in topics])
    configs = {
        each.name: {entry.name: entry.value for entry in future.result().values()} for each, future in asked.items()
    }
    return [TopicCreated(name, partitions, configs[name]) for name, partitions in topics.items()]


def _committed(admin: AdminClient, name: str) -> list[tuple[str, int, int]]:
    (future,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(name)]).values()
    parts = future.result().topic_partitions or []
    return sorted((part.topic, part.partition, part.offset) for part in parts if part.offset >= 0)


def _record_of(message: Message) -> Record:
    return Record(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        message.timestamp()[1],
        _as_bytes(message.key()),
        _as_bytes(message.value()),
        message.headers(),
    )


def _as_bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half written."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.replace(path)


if __name__ == "__main__":
    main()
