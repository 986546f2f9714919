"""Calls of the command line, and writes to the servers that it reads."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from infra.cli.__main__ import main
from infra.ports.producer import KafkaProducer, Record
from infra.ports.settings import Settings
from thunder_ingest.events import DeadLetter, pack


class Done(NamedTuple):
    """The outcome of a command."""

    returncode: int
    stdout: bytes
    stderr: bytes


def foryou(*arguments: str, settings: Settings | None = None, stdin: bytes = b"", **variables: str) -> Done:
    """Run a command in this process: with its own arguments, environment, streams, logging and signal handler."""
    environment: dict[str, str | None] = {name: None for name in os.environ if name.startswith("FORYOU_")}
    environment |= (settings.environment() if settings else {}) | variables
    with (
        pytest.MonkeyPatch.context() as patch,
        CliRunner().isolation(stdin, environment) as (stdout, stderr, _),
        state_of_a_new_process(),
    ):
        patch.setattr(sys, "argv", ["foryou", *arguments])
        code = exit_code_of_main()
        sys.stdout.flush()
        sys.stderr.flush()
        return Done(code, stdout.getvalue(), stderr.getvalue())


@contextmanager
def state_of_a_new_process() -> Iterator[None]:
    """Take the handlers of pytest off the root logger, then restore the logging and the handler of SIGINT."""
    root, infra = logging.getLogger(), logging.getLogger("infra")
    before = root.handlers, root.level, infra.level, signal.getsignal(signal.SIGINT)
    root.handlers = []
    try:
        yield
    finally:
        root.handlers, root.level, infra.level = before[:3]
        signal.signal(signal.SIGINT, before[3])


def exit_code_of_main() -> int:
    """Call the entry point; print the text of an exit as Python does."""
    try:
        main()
    except SystemExit as exited:
        if isinstance(exited.code, str):
            sys.stderr.write(f"{exited.code}\n")
            return 1
        return exited.code or 0
    return 0


def unique(name: str) -> str:
    """A name that no other test uses, since the servers are shared."""
    return f"{name}-{uuid.uuid4().hex}"


def write(settings: Settings, *records: Record) -> None:
    """Write records and wait for their delivery."""
    publisher = KafkaProducer(settings)
    publisher.publish(records)
    publisher.flush()


def write_to(settings: Settings, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
    """Write to this partition, regardless of the key."""
    producer = Producer({"bootstrap.servers": settings.kafka})
    producer.produce(topic, key=key, value=value, partition=partition)
    assert producer.flush(10) == 0


def letters(settings: Settings, *refused: DeadLetter) -> None:
    """Write dead letters."""
    write(settings, *letter_records(refused))


def letter_records(refused: Iterable[DeadLetter]) -> list[Record]:
    return [Record("dead-letters", letter.topic.encode(), pack(letter)) for letter in refused]
