"""The embedded broker with a log on disk, as `foryou up` runs it: a child process, `infra.stack.log_keeper`."""

import os
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from infra.ports.settings import Settings
from infra.ports.topics import TOPICS
from infra.stack.broker_log import BrokerLog, TopicCreated
from infra.stack.embedded import EmbeddedServer, broker_program
from infra.stack.log_keeper import Options, Status, clean_marker, log_path, status_path
from infra.stack.processes import Child

POLL_S: Final = 0.02


class KeptKafka(EmbeddedServer):
    """The broker on `127.0.0.1:port` with all topics. Its log is in `directory`, and is restored at the start.

    `start` returns early: until `wait_restored` returns, the port closes the connections of other processes.

    Args:
        settings: their `partitions` are those of the topics that are created.
        directory: of the log.
        port: of the broker; by default a free one.
        lock: a file descriptor. Its lock is held until the log is synced, also if this process is killed.

    """

    title, option = "Kafka", "--kafka-port"
    grace_s = 60.0  # the log keeper writes what is left of the log

    def __init__(self, settings: Settings, directory: Path, port: int | None = None, *, lock: int) -> None:
        super().__init__(directory, port)
        self._lock = lock
        self._topics = [TopicCreated(topic.name, settings.partitions, topic.config) for topic in TOPICS.values()]

    @property
    def address(self) -> str:
        """For `Settings.kafka`."""
        return f"127.0.0.1:{self.port}"

    @property
    def cluster_id(self) -> str:
        """The id of the broker's cluster: one for each directory."""
        path = self._directory / "cluster_id"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"foryou-{uuid.uuid4().hex[:12]}")
        return path.read_text()

    @property
    def is_whole(self) -> bool:
        """True if the log, stopped, has every record that the broker accepted."""
        return clean_marker(self._directory).exists() or not log_path(self._directory).exists()

    def wait_restored(self, check: Callable[[], None]) -> Status:
        """Wait until the broker may be used; calls `check` meanwhile. Raises `ChildDied`."""
        while not status_path(self._directory).exists():
            self.check()
            check()
            time.sleep(POLL_S)
        return msgspec.json.decode(status_path(self._directory).read_bytes(), type=Status)

    def _command(self, port: int) -> list[str]:
        # these raise here, not in the child
        broker_program()
        if log_path(self._directory).exists():
            with BrokerLog(log_path(self._directory)) as log:
                log.verify(is_whole=clean_marker(self._directory).exists())
        status_path(self._directory).unlink(missing_ok=True)
        options = Options(str(self._directory), port, self.cluster_id, self._topics, os.getpid())
        return [sys.executable, "-m", "infra.stack.log_keeper", msgspec.json.encode(options).decode()]

    def _launch(self, command: list[str]) -> Child:
        return self._children.start("log-keeper", command, inherited=[self._lock], is_tied=False)
