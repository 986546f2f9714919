"""Replay a directory of event logs through Kafka, count every line, then request feeds."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from feed_worker.client import Client, FeedTimeout, NoFeed
from feed_worker.documents.feed import Feed
from feed_worker.serving.worker_registry import ready_workers
from infra.ops.flow_lag import wait_for_flows
from infra.ops.replay.line_counts import LineCounts
from infra.ops.replay.log_reader import Line, LogReader
from infra.ops.replay.sent_messages import SentMessages
from infra.ports.clock import CLOCK_WINDOW, DAY_MS, LogClock, now_ms
from infra.ports.consumer import partitions_of
from infra.ports.errors import ForYouError
from infra.ports.producer import KafkaProducer, Record
from infra.ports.redis import connect
from infra.ports.settings import Settings
from infra.ports.topic_reader import scan
from infra.ports.topics import INPUTS
from infra.stack.stack import Stack, scratch_directory
from infra.terminal.progress import ProgressReport
from thunder_ingest.events import Refused, decode, unpack_dead_letter

_PRODUCER_OPTIONS: Final = {"linger.ms": 20, "batch.num.messages": 10_000}
"""Larger batches than a feed request needs: a replay writes many small messages."""
NAMED_PROBLEMS = 20
LINES_BETWEEN_CHECKS = 5_000
FEED_TIMEOUT_S = 30.0


class ReplayAborted(ForYouError, ValueError):
    """A strict replay met an unusable line; the text has the line and the reason."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The log to replay, and the options."""

    directory: Path
    embedded: bool = False
    speed: float | None = None
    """Seconds of the log per second; None: as fast as the broker accepts messages."""
    feeds: int = 0
    strict: bool = False


Show = Callable[[Feed, float], None]
"""Called with each feed and the milliseconds from its request to its read."""


def run(replay: Replay, settings: Settings, err: Console, show: Show) -> LineCounts:
    """Replay a log.

    Args:
        replay: the log and the options.
        settings: of the running system, or of the embedded one.
        err: console for the progress.
        show: receives each feed.

    Raises:
        LogError, ReplayAborted: the log cannot be read, or a strict replay met an unusable line.
        ForYouError: as `Stack` and `Client`.

    """
    reader = LogReader(replay.directory)
    with ExitStack() as exits:
        report = exits.enter_context(ProgressReport(err))
        stack = None
        if replay.embedded:
            directory = exits.enter_context(scratch_directory())
            stack = exits.enter_context(Stack(settings, directory, print_line=report.print_line))
        run = _ReplayRun(replay, settings, report, stack)
        run.publish(reader)
        run.settle()
        if replay.feeds:
            run.request_feeds(show)
        return run.counts


class _ReplayRun:
    def __init__(self, replay: Replay, settings: Settings, report: ProgressReport, stack: Stack | None) -> None:
        self.counts = LineCounts()
        self._replay, self._report, self._stack = replay, report, stack
        self._settings = stack.settings if stack else settings
        partitions_of(self._settings, INPUTS)
        # an outage from here on is waited for, and logged
        logging.getLogger("infra").setLevel(logging.WARNING)
        self._sent = SentMessages()
        self._producer = KafkaProducer(
            self._settings, check=self._check, on_delivered=self._sent.add, options=_PRODUCER_OPTIONS
        )
        self._pace = Pace(replay.speed, self._sleep)
        self._clock = LogClock()
        self._times: list[int] = []
        self._jumps = 0
        self._ahead: list[Line] = []
        self._latest_ms = now_ms() + settings.future_tolerance_ms
        self._began = time.monotonic()

    def publish(self, reader: LogReader) -> None:
        with self._report.step(f"publish {self._replay.directory}") as advance:
            for read, line in enumerate(reader.lines(), 1):
                self._send(line)
                if read % LINES_BETWEEN_CHECKS == 0:
                    self._sleep(0)
                    advance(reader.bytes_read, reader.total_bytes)
            self._producer.drain()
            self._observe()
            self._list_outliers()
        self.counts.publish_seconds = time.monotonic() - self._began

    def settle(self) -> None:
        wait_for_flows(self._settings, self._sent.ends, self._report, self._check)
        self.counts.seconds = time.monotonic() - self._began
        self.counts.delivered, self.counts.unpublished = len(self._sent), Counter(map(str, self._producer.refusals))
        with self._report.step("count dead letters"):
            self.counts.dead_letters = _dead_letters(self._settings, self._sent)

    def request_feeds(self, show: Show) -> None:
        if self._stack:
            with self._report.step("wait for the worker"):
                self._stack.wait_ready()
        with self._report.step(f"request {self._replay.feeds} feeds"):
            _request_feeds(self.counts, self._replay.feeds, self._settings, show)

    def _check(self) -> None:
        if self._stack:
            self._stack.check()

    def _sleep(self, seconds: float) -> None:
        self._producer.poll(seconds)
        self._check()

    def _send(self, line: Line) -> None:
        reason = _reason(line, self._replay.strict)
        if reason and self._replay.strict:
            self._producer.drain()
            before = f"{self.counts.read.total():,} lines were published before it"
            raise ReplayAborted(f"{line.file} line {line.number}: {reason}; {before}")
        self._count(line)
        if line.at is not None and (jump := self._pace.wait(line.at)):
            self._jumps += 1
            if self._jumps <= NAMED_PROBLEMS:
                self._report.print_line(
                    f"{line.file} line {line.number}: the log's time jumps by {jump}, which is not waited for"
                )
        self._producer.publish([Record(line.topic, line.key, line.raw)])

    def _count(self, line: Line) -> None:
        counts = self.counts
        counts.read[line.topic] += 1
        if line.problem:
            counts.broken += 1
            if counts.broken <= NAMED_PROBLEMS:
                self._report.print_line(f"{line.file} line {line.number}: {line.problem}")
            if counts.broken == NAMED_PROBLEMS:
                self._report.print_line("further broken lines are counted, not listed")
        if line.at is not None and line.at <= self._latest_ms:  # the flows refuse later ones
            self._times.append(line.at)
            if self._clock.is_outlier(line.at):
                self._ahead.append(line)
            if len(self._times) >= CLOCK_WINDOW:
                self._observe()
        if line.key is not None and line.topic != "posts":
            counts.active[line.key] += 1

    def _observe(self) -> None:
        self._clock.observe(self._times)
        self._times = []
        self.counts.newest_at = self._clock.now_ms()
        self._ahead = [line for line in self._ahead if line.at is not None and self._clock.is_outlier(line.at)]

    def _list_outliers(self) -> None:
        """Name the lines far ahead of the log. They are published too; the clock of a log follows the bulk of it."""
        self.counts.outliers = len(self._ahead)
        for line in self._ahead[:NAMED_PROBLEMS]:
            days = ((line.at or 0) - self.counts.newest_at) / DAY_MS
            self._report.print_line(
                f"{line.file} line {line.number}: `at` is {days:,.1f} days after the rest of the log"
            )
        if len(self._ahead) > NAMED_PROBLEMS:
            self._report.print_line(f"{len(self._ahead):,} lines are far after the rest of the log")


def _reason(line: Line, strict: bool) -> str | None:
    """The reason why a line is unusable; only a strict replay decodes the whole line."""
    if line.problem or not strict:
        return line.problem
    try:
        decode(line.topic, line.raw)
    except Refused as reason:
        return str(reason)
    return None


class Pace:
    """Delays events so that the log's time passes `speed` times as fast as real time; None: no delay.

    A jump of more than a day, forward or back, that would be waited for longer than `MAX_WAIT_S` is skipped: a clock
    that was never set, or a gap in the log.
    """

    MAX_WAIT_S: Final = 60.0

    def __init__(self, speed: float | None, sleep: Callable[[float], None]) -> None:
        self._speed, self._sleep = speed, sleep
        self._first_ms: int | None = None
        self._last_ms = 0
        self._began = time.monotonic()

    def wait(self, at_ms: int) -> str:
        """Sleep until an event is due.

        Returns:
            the jump in words if it was skipped, else an empty text.

        """
        if self._speed is None:
            return ""
        jump_ms, self._last_ms = at_ms - self._last_ms, at_ms
        is_long = abs(jump_ms) > DAY_MS and abs(jump_ms) / 1000 / self._speed > self.MAX_WAIT_S
        is_first = self._first_ms is None
        if self._first_ms is None or is_long:
            self._first_ms, self._began = at_ms, time.monotonic()
            return "" if is_first else f"{jump_ms / DAY_MS:,.1f} days"
        due = self._began + (at_ms - self._first_ms) / 1000 / self._speed
        while (left := due - time.monotonic()) > 0:
            self._sleep(min(left, 0.2))
        return ""


def _dead_letters(settings: Settings, sent: SentMessages) -> Counter[str]:
    """Refused lines of this replay by reason; a line counts once, also if a flow refused it again after a restart."""
    reasons: dict[tuple[str, int, int], str] = {}
    for messages in scan(settings, ["dead-letters"]):
        for message in messages:
            letter = unpack_dead_letter(message.value() or b"")
            place = (letter.topic, letter.partition, letter.offset)
            if place in sent:
                reasons[place] = letter.reason
    return Counter(reasons.values())


def _request_feeds(counts: LineCounts, users: int, settings: Settings, show: Show) -> None:
    with Client(settings) as client:
        at = counts.newest_at if _runs_on_log_clock(settings) else None
        forms = [key.decode() for key, _ in counts.active.most_common(users)]
        for first in range(0, len(forms), settings.max_batch):  # a worker computes at most this many at once
            some = forms[first : first + settings.max_batch]
            requested = [(form, client.request_feed(form, at=at), time.perf_counter()) for form in some]
            for each in requested:
                _await_feed(counts, client, *each, show)


def _await_feed(counts: LineCounts, client: Client, form: str, request: str, began: float, show: Show) -> None:
    try:
        feed = client.wait(form, request, FEED_TIMEOUT_S)
    except FeedTimeout:
        counts.feeds["timeout"] += 1
    except NoFeed as none:
        counts.feeds[none.status] += 1
    else:
        counts.feeds[feed.status] += 1
        show(feed, 1000 * (time.perf_counter() - began))


def _runs_on_log_clock(settings: Settings) -> bool:
    """True if a worker uses the log's clock; the settings decide if the workers report no clock."""
    client = connect(settings)
    try:
        clocks = {ready.get("clock", settings.clock) for ready in ready_workers(client)}
    finally:
        client.close()
    return "log" in (clocks or {settings.clock})
