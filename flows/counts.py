"""Changes of counts ▸ post-counts, and the changelog of the counts: the sink of the engagements flow.

Each worker owns some shards of the posts. Their state is in memory, and in the changelog `post-counts-changelog`.
1. At its first input a process reads the changelog. It joins the segments of a shard at the shard's first input.
2. An item's changes are joined in memory.
3. At the end of an epoch Bytewax requests a snapshot of each written shard. The first request writes the changelog and
   the changed totals of all shards of the process, and waits for their delivery.
4. Bytewax commits the epoch, and with it the offsets of the sources.

A process that ends before step 4 has written changes of events that the next one reads again. Joins are idempotent, so
these count once. A post's totals are written at most once an epoch, so at most once a second.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Protocol, TypeAlias

from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.process import exit_now, restored_from
from flows.sinks import hand_over, record_writer, wait_for_delivery
from infra.ports.broken_records import UNREADABLE, skip_record
from infra.ports.clock import Clock
from infra.ports.producer import Record
from infra.ports.record_writer import RecordWriter
from infra.ports.settings import Settings
from thunder_ingest.counts.changelog import FORMAT, FORMAT_KEY, Changelog, unpack_changes
from thunder_ingest.counts.table import Changes, CountTable
from thunder_ingest.events import key_of_id, pack, unpack_counts

log = logging.getLogger(__name__)

SHARDS: Final = 64
TOPIC, CHANGELOG = "post-counts", "post-counts-changelog"
CLAIMED_WITHIN_S: Final = 300.0
"""Bytewax builds a shard at its first input. After this time the rest belongs to other processes, or is read again."""

Segments: TypeAlias = dict[str, list[tuple[bytes, bytes]]]
"""Keys and values of the changelog, by shard."""


def shard_name(shard: int) -> str:
    """The key of a shard's items, and the beginning of the keys of its segments."""
    return f"{shard:02}"


class Topics(Protocol):
    """The two topics."""

    def read(self, topic: str) -> Iterator[tuple[bytes, bytes | None]]:
        """Iterate over the keys and values of a topic."""

    def write(self, records: Iterable[Record]) -> None:
        """Write records, and wait for their delivery."""


class KafkaTopics:
    """The two topics in Kafka."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._writer: RecordWriter | None = None

    def read(self, topic: str) -> Iterator[tuple[bytes, bytes | None]]:
        """Iterate over the keys and values of a topic."""
        for messages in restored_from(self._settings, topic):
            for message in messages:
                yield message.key() or b"", message.value()

    def write(self, records: Iterable[Record]) -> None:
        """Write records, and wait for their delivery."""
        self._writer = self._writer or record_writer(self._settings)
        hand_over(self._writer, records)
        wait_for_delivery(self._writer)


class CountSink(FixedPartitionedSink[Changes, int]):
    """The shards of this process.

    Args:
        topics: where totals and changelog are.
        clock: the time of the rule about age.
        max_age_ms: the time for which a post without further events is kept.
        max_voices: the largest number of voices in all shards of the cluster.
        fail: ends the process with a reason.

    """

    def __init__(
        self,
        topics: Topics,
        clock: Clock,
        max_age_ms: int,
        max_voices: int,
        fail: Callable[[object], None] = exit_now,
    ) -> None:
        self._topics, self._clock, self._fail = topics, clock, fail
        self._max_age_ms, self._max_voices = max_age_ms, max_voices // SHARDS
        self._run = f"{time.time_ns():x}"
        self._lock = threading.RLock()  # Bytewax may run several workers in a process
        self._shards: dict[str, _Shard] = {}
        self._unread: dict[str, _Shard] = {}
        self._unclaimed: Segments | None = None
        self._scanned_at = 0.0
        self._has_unwritten = False

    def list_parts(self) -> list[str]:
        """The names of the shards."""
        return [shard_name(shard) for shard in range(SHARDS)]

    def part_fn(self, item_key: str) -> int:
        """The index of a shard."""
        return int(item_key)

    def build_part(self, _step_id: str, for_part: str, resume_state: int | None) -> "_Shard":
        """An empty shard; the first input fills it."""
        table, changelog = CountTable(self._max_age_ms, self._max_voices), Changelog(for_part, self._run)
        shard = _Shard(self, table, changelog, resume_state is not None)
        with self._lock:
            self._shards[for_part] = self._unread[for_part] = shard
        return shard

    def add(self, table: CountTable, values: list[Changes]) -> None:
        """Join changes into the table of a shard."""
        with self._lock:
            if self._unread:
                self._restore()
            now_ms, self._has_unwritten = self._clock.now_ms(), True
            for changes in values:
                table.add(changes, now_ms)

    def write(self) -> None:
        """Write the changelog first, then the totals that follow from it, of all shards."""
        with self._lock:
            if not self._has_unwritten:
                return
            totals, segments = list[Record](), list[Record]()
            now_ms, self._has_unwritten = self._clock.now_ms(), False
            for shard in self._shards.values():
                drained = shard.table.drain(now_ms)
                records = shard.changelog.records(drained.changes, shard.table.voices, shard.table.all_changes)
                segments += [Record(CHANGELOG, key, value) for key, value in records]
                totals += [Record(TOPIC, key_of_id(each.post_id), pack(each)) for each in drained.records]
                totals += [Record(TOPIC, key_of_id(post_id), None) for post_id in drained.forgotten]
            if self._unclaimed and time.monotonic() - self._scanned_at > CLAIMED_WITHIN_S:
                self._unclaimed = None
            if totals or segments:
                self._topics.write([*segments, *totals])

    def _restore(self) -> None:
        unread, self._unread = self._unread, {}
        if self._unclaimed is None:
            self._unclaimed = self._scanned(unread)
            self._scanned_at = time.monotonic()
        for name, shard in unread.items():
            for key, value in self._unclaimed.pop(name, ()):
                shard.restore(key, value)
            shard.table.restored()
        log.info("%d posts with counts restored", sum(len(shard.table) for shard in unread.values()))

    def _scanned(self, unread: Mapping[str, "_Shard"]) -> Segments:
        """Join the segments of some shards; return those of others, which this process may get later."""
        unclaimed: Segments = defaultdict(list)
        is_new = True
        for key, value in self._topics.read(CHANGELOG):
            is_new &= key != FORMAT_KEY
            name = key.partition(b"/")[0].decode()
            if value is None or key == FORMAT_KEY:
                continue
            if name in unread:
                unread[name].restore(key, value)
            else:
                unclaimed[name].append((key, value))
        if is_new and any(shard.was_written for shard in unread.values()):
            self._fail(
                f"{CHANGELOG} is empty, but the recovery store has counts. To count the log again from its beginning,"
                " start with an empty recovery store"
            )
        if is_new:
            self._topics.write([Record(CHANGELOG, FORMAT_KEY, FORMAT), *self._outdated()])
        return unclaimed

    def _outdated(self) -> Iterator[Record]:
        """Tombstones for totals that an earlier version wrote, and never deleted."""
        oldest_at = self._clock.now_ms() - self._max_age_ms
        for key, value in self._topics.read(TOPIC):
            try:
                is_outdated = value is not None and unpack_counts(value).at < oldest_at
            except UNREADABLE as error:
                skip_record(TOPIC, key, error)
                is_outdated = True
            if is_outdated:
                yield Record(TOPIC, key, None)


class _Shard(StatefulSinkPartition[Changes, int]):
    def __init__(self, sink: CountSink, table: CountTable, changelog: Changelog, was_written: bool) -> None:
        self._sink, self.table, self.changelog, self.was_written = sink, table, changelog, was_written

    def restore(self, key: bytes, value: bytes) -> None:
        try:
            changes = unpack_changes(value)
            self.changelog.read(key, len(changes))
            self.table.restore(changes)
        except UNREADABLE as error:
            skip_record(CHANGELOG, key, error)

    def write_batch(self, values: list[Changes]) -> None:
        self._sink.add(self.table, values)

    def snapshot(self) -> int:
        self._sink.write()
        return self.table.voices
