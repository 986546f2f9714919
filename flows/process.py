"""The process of a flow: start, stop signals, and exit after a failure."""

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from confluent_kafka import Message

from infra.ports import logs
from infra.ports.cluster_binding import bind_to_cluster
from infra.ports.consumer import wait_for_topics
from infra.ports.errors import BrokerUnreachable, ForYouError, StopRequested
from infra.ports.kafka_admin import cluster_id
from infra.ports.kafka_config import kafka_outage, kafka_probe
from infra.ports.outage import open_outage
from infra.ports.settings import Settings, load
from infra.ports.topic_reader import scan

log = logging.getLogger(__name__)

GC_THRESHOLD: Final = 1_000_000
"""Allocated objects between two garbage collections: several batches."""

STALLED_S: Final = 120.0
"""Time without a sign of life after which a flow counts as stuck."""
_alive_at_s = time.monotonic()

stopping = threading.Event()
"""Set by SIGTERM and SIGINT: sources end, the last epoch is finished and snapshotted, the process exits with 0."""


def start(topics: Sequence[str]) -> Settings:
    """Set up logging and signals, load the settings and wait for the topics of a flow.

    Returns:
        the settings.

    Raises:
        SystemExit: a setting is wrong (code 2) or a topic is missing (code 1), after one line on stderr.

    """
    tune_garbage_collector()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
    try:
        settings = load()
        logs.configure(settings.log_format)
        wait_for_topics(settings, topics, stopping)
    except ForYouError as error:
        fail(str(error), error.exit_code)
    return settings


def restored_from(settings: Settings, topic: str) -> Iterator[Sequence[Message]]:
    """Read a topic whole, as `scan` does, for the state of a flow; wait without limit while no broker answers."""
    for messages in scan(settings, [topic], wait=wait_for_kafka(settings)):
        yield messages
        note_life()


def wait_for_kafka(settings: Settings) -> Callable[[BrokerUnreachable], None]:
    """Return a function that waits a second after an error of an outage; it ends the process after a stop signal."""

    def wait(error: BrokerUnreachable) -> None:
        kafka_outage(settings).begins(error, kafka_probe(settings))
        if stopping.wait(1.0):
            exit_now(StopRequested("stopped while Kafka was unreachable"))

    return wait


def bind_recovery_store(settings: Settings, store: Path) -> None:
    """Tie a recovery store to the Kafka cluster of the settings: its offsets mean nothing in another one.

    Raises:
        OtherCluster: it holds offsets of another cluster.

    """
    while not stopping.is_set():
        try:
            found = cluster_id(settings)
        except BrokerUnreachable as error:
            kafka_outage(settings).begins(error)
            stopping.wait(1.0)
        else:
            kafka_outage(settings).ends()
            bind_to_cluster(store, found, "give --recovery another directory, or delete this one")
            return


def problem() -> str | None:
    """Return the reason why this flow cannot continue: it stands still though all servers answer; else None."""
    still_s = time.monotonic() - _alive_at_s
    if still_s > STALLED_S and open_outage() is None:
        return f"no snapshot for {still_s:.0f} s, though all servers answer"
    return None


def note_life() -> None:
    """Record a sign of life: a snapshot, as Bytewax ends an epoch once all its output is written; a restored batch."""
    global _alive_at_s
    _alive_at_s = time.monotonic()


def fail(reason: str, exit_code: int) -> NoReturn:
    """Exit during the start, after one line on stderr."""
    sys.stderr.write(f"{reason}\n")
    raise SystemExit(exit_code) from None


def tune_garbage_collector() -> None:
    """Make garbage collections rare: batches have no cycles, and their traversal took a fifth of a flow's time."""
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def exit_now(reason: object) -> None:
    """End this process at once; the next one repeats all unfinished work from the log.

    The exit code is 0 after a stop signal, for which `reason` is a StopRequested, else 1.
    """
    is_stop = isinstance(reason, StopRequested)
    log.log(logging.WARNING if is_stop else logging.ERROR, "%s", reason)
    logging.shutdown()
    os._exit(0 if is_stop else 1)
