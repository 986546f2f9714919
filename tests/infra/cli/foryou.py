"""The command line as its users meet it, and what stands on the servers that it looks at."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterable

from confluent_kafka import Producer

from infra.ports.producer import KafkaProducer, Record
from infra.ports.settings import Settings
from thunder_ingest.events import DeadLetter, pack


def foryou(*arguments: str, settings: Settings | None = None, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command where nobody can be asked."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FORYOU_")}
    environment |= (settings.environment() if settings else {}) | variables
    command = [sys.executable, "-m", "infra.cli", *arguments]
    return subprocess.run(command, input=b"", capture_output=True, env=environment, check=False)


def unique(name: str) -> str:
    """A name that no other test uses: the servers are shared."""
    return f"{name}-{uuid.uuid4().hex}"


def write(settings: Settings, *records: Record) -> None:
    """Write records and wait for their delivery."""
    publisher = KafkaProducer(settings)
    publisher.publish(records)
    publisher.flush()


def write_to(settings: Settings, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
    """Write to a partition that the key does not decide."""
    producer = Producer({"bootstrap.servers": settings.kafka})
    producer.produce(topic, key=key, value=value, partition=partition)
    assert producer.flush(10) == 0


def letters(settings: Settings, *refused: DeadLetter) -> None:
    """Write dead letters."""
    write(settings, *letter_records(refused))


def letter_records(refused: Iterable[DeadLetter]) -> list[Record]:
    return [Record("dead-letters", letter.topic.encode(), pack(letter)) for letter in refused]
