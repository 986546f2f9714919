"""`foryou replay DIR`: a directory of event logs through Kafka, every line accounted for, then feeds."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from feed_worker.client import Client, FeedTimeout
from feed_worker.feed import Feed
from infra.account import Account
from infra.catch_up import wait_for_flows
from infra.delivery import RawProducer
from infra.kafka import partitions_of, read_to_end
from infra.progress import Advance, Report
from infra.redis import connect
from infra.replay_log import Line, LogReader
from infra.settings import Settings
from infra.stack import Stack, scratch_directory, workers
from infra.topics import INPUTS
from thunder_ingest.events import Refused, decode, unpack_dead_letter

NAMED_PROBLEMS = 20
LINES_BETWEEN_CHECKS = 5_000
FEED_TIMEOUT_S = 30.0


class Stopped(ValueError):
    """`--strict` and a line that cannot be used; the text names the line and the reason."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What to replay, and how."""

    directory: Path
    embedded: bool = False
    speed: float | None = None
    """How many seconds of the log pass in one; None: as fast as the broker takes it."""
    feeds: int = 0
    strict: bool = False


Show = Callable[[Feed, float], None]
"""Called with each feed and the milliseconds from its request to its being read."""


def run(replay: Replay, settings: Settings, err: Console, show: Show) -> Account:
    """Replay a log.

    Args:
        replay: what, and how.
        settings: of the running system; of the one to run, where it is to be embedded.
        err: takes the progress.
        show: is handed the feeds.

    Raises:
        LogError, Stopped: for the log; else what `Stack` and `Client` raise.

    """
    reader = LogReader(replay.directory)
    with ExitStack() as exits:
        report = exits.enter_context(Report(err))
        if not replay.embedded:
            return _replay(reader, replay, settings, report, show)
        directory = exits.enter_context(scratch_directory())
        stack = exits.enter_context(Stack(settings, directory, say=report.say))
        return _replay(reader, replay, stack.settings, report, show, stack)


def _replay(
    reader: LogReader, replay: Replay, settings: Settings, report: Report, show: Show, stack: Stack | None = None
) -> Account:
    check = stack.check if stack else _nothing
    partitions_of(settings, INPUTS)
    account, producer, began = Account(), RawProducer(settings), time.monotonic()
    with report.step(f"{replay.directory} is published") as advance:
        _publish(reader, replay, settings, producer, account, report, advance, check)
    account.publish_seconds = time.monotonic() - began
    wait_for_flows(settings, producer.ends, report, check)
    account.seconds = time.monotonic() - began
    account.delivered, account.unpublished = producer.delivered, producer.refused
    with report.step("dead letters are counted"):
        account.dead_letters = _dead_letters(settings, producer)
    if replay.feeds:
        if stack:
            with report.step("the worker is ready"):
                stack.wait_ready()
        with report.step(f"{replay.feeds} feeds are requested and read"):
            _ask(account, replay.feeds, settings, show)
    return account


def _nothing() -> None:
    """The check of a system that is not ours to watch."""


def _publish(
    reader: LogReader,
    replay: Replay,
    settings: Settings,
    producer: RawProducer,
    account: Account,
    report: Report,
    advance: Advance,
    check: Callable[[], None],
) -> None:
    pace = Pace(replay.speed)
    latest_ms = _now_ms() + settings.future_tolerance_ms
    for read, line in enumerate(reader.lines(), 1):
        reason = _reason(line, replay.strict)
        if reason and replay.strict:
            producer.flush(check)
            raise Stopped(f"{line.file} line {line.number}: {reason}; the {read - 1:,} lines before it are published")
        _count(account, line, latest_ms, report)
        if line.at is not None:
            pace.wait(line.at, producer.poll)
        producer.send(line.topic, line.key, line.raw)
        if read % LINES_BETWEEN_CHECKS == 0:
            producer.poll()
            check()
            advance(reader.bytes_read, reader.total_bytes)
    producer.flush(check)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _reason(line: Line, strict: bool) -> str | None:
    """Why a line cannot be used; without `strict` only what shows before it is decoded whole."""
    if line.problem or not strict:
        return line.problem
    try:
        decode(line.topic, line.raw)
    except Refused as reason:
        return str(reason)
    return None


def _count(account: Account, line: Line, latest_ms: int, report: Report) -> None:
    account.read[line.topic] += 1
    if line.problem:
        account.broken += 1
        if account.broken <= NAMED_PROBLEMS:
            report.say(f"{line.file} line {line.number}: {line.problem}")
        if account.broken == NAMED_PROBLEMS:
            report.say("further broken lines are only counted")
    # a time that the flows will refuse must not become the time of the feed requests
    if line.at is not None and account.newest_at < line.at <= latest_ms:
        account.newest_at = line.at
    if line.key is not None and line.topic != "posts":
        account.active[line.key] += 1


class Pace:
    """Lets the log's time pass `speed` times as fast as the clock on the wall; not at all slowed down without one."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._first_ms: int | None = None
        self._began = time.monotonic()

    def wait(self, at_ms: int, sleep: Callable[[float], None]) -> None:
        """Sleep until an event is due."""
        if self._speed is None:
            return
        if self._first_ms is None:
            self._first_ms, self._began = at_ms, time.monotonic()
        due = self._began + (at_ms - self._first_ms) / 1000 / self._speed
        while (left := due - time.monotonic()) > 0:
            sleep(min(left, 0.2))


def _dead_letters(settings: Settings, producer: RawProducer) -> Counter[str]:
    """The lines of this replay that were refused, by reason; each once, however often a flow had to start over."""
    reasons: dict[tuple[str, int, int], str] = {}
    for messages in read_to_end(settings, "dead-letters"):
        for message in messages:
            letter = unpack_dead_letter(message.value() or b"")
            if producer.is_own(letter.topic, letter.partition, letter.offset):
                reasons[letter.topic, letter.partition, letter.offset] = letter.reason
    return Counter(reasons.values())


def _ask(account: Account, users: int, settings: Settings, show: Show) -> None:
    with Client(settings) as client:
        at = account.newest_at if _runs_on_log_clock(settings) else None
        forms = [key.decode() for key, _ in account.active.most_common(users)]
        asked = [(form, client.request_feed(form, at=at), time.perf_counter()) for form in forms]
        for form, request, began in asked:
            try:
                feed = client.wait(form, request, FEED_TIMEOUT_S)
            except FeedTimeout:
                account.feeds["timeout"] += 1
            else:
                account.feeds[feed.status] += 1
                show(feed, 1000 * (time.perf_counter() - began))


def _runs_on_log_clock(settings: Settings) -> bool:
    """What the workers say; those that do not tell run on the clock of our own settings."""
    client = connect(settings)
    try:
        clocks = {ready.get("clock", settings.clock) for ready in workers(client)}
    finally:
        client.close()
    return "log" in (clocks or {settings.clock})
