"""engagements, social-graph ▸ Redis `user:{id}` and post-counts; refused messages ▸ dead-letters.

Run with `python -m flows engagements --recovery DIR`. A user's state in Redis is a set of small entries.
A reader joins them, and the last writer by event time wins, so writes are idempotent. The counts per post are sums,
which a replay would double. So they are Bytewax state, in one snapshot with the offsets.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import bytewax.operators as op
import redis
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, Sink, StatelessSinkPartition

from flows.decoding import Decoded, Decoder
from flows.process import exit_now, start, stopping
from flows.sinks import KafkaSink
from flows.sources import Batch, KafkaSource
from infra.ports.clock import clock_of
from infra.ports.errors import StopRequested
from infra.ports.producer import Record
from infra.ports.redis import RedisRetry, connect
from infra.ports.settings import Settings
from thunder_ingest.counts.table import Changes, CountTable, Snapshot, changes_of
from thunder_ingest.events import key_of_id, pack
from thunder_ingest.users.entries import UserEntries, entries_by_user
from thunder_ingest.users.redis_form import UserStates

COUNT_SHARDS = 64  # a snapshot has few large objects, not a million small ones
BATCH_MESSAGES = 50_000  # with lag, a large batch has many events of one user, and needs fewer writes
EMIT_EVERY = timedelta(seconds=1)


class UserWrites(NamedTuple):
    """The entries of a batch for users' states; `suffix` names the batch, so that a replay writes the same fields."""

    entries: UserEntries
    suffix: str


def user_writes(decoded: Decoded) -> UserWrites:
    """Return the entries of users' states for the events of a batch."""
    if not decoded.events:
        return UserWrites(entries_by_user([]), "")
    topic, partition, messages = decoded.batch
    return UserWrites(
        entries_by_user(decoded.events), f"{topic[0]}{partition}-{messages[0].offset()}-{messages[-1].offset()}"
    )


def count_changes(decoded: Decoded) -> list[tuple[str, Changes]]:
    """Return the changes of post counts by a batch, keyed by shard."""
    return [(f"{shard:02}", changes) for shard, changes in changes_of(decoded.events).of_shards(COUNT_SHARDS).items()]


class Totals(StatefulBatchLogic[Changes, list[Record], Snapshot]):
    """The running totals of the posts of a shard; a post's totals are written at most once a second."""

    def __init__(self, table: CountTable) -> None:
        self._table = table
        self._emit_at: datetime | None = None

    def on_batch(self, values: list[Changes]) -> tuple[list[list[Record]], bool]:
        """Add changes; the next notification writes the changed totals."""
        for changes in values:
            self._table.add(changes)
        if self._emit_at is None:
            self._emit_at = datetime.now(UTC) + EMIT_EVERY
        return [], StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[list[list[Record]], bool]:
        """Write the totals that changed since the last notification."""
        self._emit_at = None
        return [self._records()], StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[list[list[Record]], bool]:
        """Write the remaining changes before the process ends."""
        return [self._records()], StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        """Return the time of the next write."""
        return self._emit_at

    def snapshot(self) -> Snapshot:
        """Return an immutable copy for the recovery store."""
        return self._table.snapshot()

    def _records(self) -> list[Record]:
        return [Record("post-counts", key_of_id(record.post_id), pack(record)) for record in self._table.drain()]


def totals(max_age_ms: int) -> Callable[[Snapshot | None], Totals]:
    """Return a function that builds a shard's totals: empty ones, or those of a snapshot."""
    return lambda snapshot: Totals(CountTable(max_age_ms, snapshot))


class UserSink(DynamicSink[UserWrites]):
    """Writes users' states to Redis."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> "_UserWriter":
        """Connect a worker; wait while Redis is unreachable."""
        redis_retry = RedisRetry(self._settings, stopping)
        return _UserWriter(UserStates(redis_retry.run(lambda: connect(self._settings))), redis_retry)


class _UserWriter(StatelessSinkPartition[UserWrites]):
    def __init__(self, users: UserStates, redis_retry: RedisRetry) -> None:
        self._users, self._redis_retry = users, redis_retry

    def write_batch(self, items: list[UserWrites]) -> None:
        for entries, suffix in items:
            if entries:
                self._write(entries, suffix)

    def _write(self, entries: UserEntries, suffix: str) -> None:
        try:
            self._redis_retry.run(lambda: self._users.write(entries, suffix))
        except (StopRequested, redis.AuthenticationError) as error:
            exit_now(error)


def build_flow(
    engagements: Source[Batch],
    graph: Source[Batch],
    users: Sink[UserWrites],
    records: Sink[list[Record]],
    decode: Decoder,
    max_age_ms: int,
) -> Dataflow:
    """Return the dataflow with its steps."""
    flow = Dataflow("engagements")
    both = op.merge("both", op.input("engagements", flow, engagements), op.input("social-graph", flow, graph))
    decoded = op.map("decode", both, decode)
    op.output("users", op.map("user-writes", decoded, user_writes), users)
    op.output("dead-letters", op.map("refused", decoded, lambda each: each.refused), records)
    changes = op.flat_map("count", decoded, count_changes)
    op.output("post-counts", op.key_rm("unkey", op.stateful_batch("totals", changes, totals(max_age_ms))), records)
    return flow


def flow() -> Dataflow:
    """Return the flow for the servers of the settings."""
    settings = start(["engagements", "social-graph", "post-counts", "dead-letters"])
    name = "flows.engagements"
    return build_flow(
        KafkaSource(settings, "engagements", name, BATCH_MESSAGES),
        KafkaSource(settings, "social-graph", name),
        UserSink(settings),
        KafkaSink(settings),
        Decoder(settings, clock_of(settings.clock)),
        settings.remembered_ms,
    )
