"""The process of a flow: start, stop signals, and exit after a failure."""

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Final, NoReturn

from infra.ports import logs
from infra.ports.consumer import wait_for_topics
from infra.ports.errors import ForYouError
from infra.ports.settings import Settings, load

log = logging.getLogger(__name__)

GC_THRESHOLD: Final = 1_000_000
"""Allocated objects between two garbage collections: several batches."""

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


def fail(reason: str, exit_code: int) -> NoReturn:
    """Exit during the start, after one line on stderr."""
    sys.stderr.write(f"{reason}\n")
    raise SystemExit(exit_code) from None


def tune_garbage_collector() -> None:
    """Make garbage collections rare: batches have no cycles, and their traversal took a fifth of a flow's time."""
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def exit_now(reason: object) -> None:
    """End this process at once with code 1; the next one repeats all unfinished work from the log."""
    log.error("%s", reason)
    logging.shutdown()
    os._exit(1)
