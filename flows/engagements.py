"""engagements, social-graph ▸ Redis `user:{id}`, post-counts and accounts; refused messages ▸ dead-letters.

Run with `python -m flows engagements --recovery DIR`. A user's state in Redis is a set of small entries.
A reader joins them, and the last writer by event time wins, so writes are idempotent. So are the counts per post: one
account is one voice per post and action (`flows.counts`).
"""

import logging
import time
from collections import deque
from functools import partial
from typing import Final, NamedTuple

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import Source
from bytewax.outputs import DynamicSink, Sink, StatelessSinkPartition

from flows.accounts import TOPIC as ACCOUNTS
from flows.accounts import account_sink, account_states
from flows.counts import CHANGELOG, SHARDS, TOPIC, CountSink, KafkaTopics, shard_name
from flows.decoding import Decoded, Decoder
from flows.first_build import FirstBuild
from flows.process import exit_now, start, stopping, wait_for_kafka
from flows.sinks import KafkaSink
from flows.sources import Batch, KafkaSource
from infra.ports.clock import clock_of
from infra.ports.errors import RedisRefused, StopRequested
from infra.ports.producer import Record
from infra.ports.redis import Client, RedisRetry
from infra.ports.settings import Settings
from infra.ports.topic_reader import patiently
from thunder_ingest.counts.table import Changes, by_shard, changes_of_columns, warm_up
from thunder_ingest.events import AccountState
from thunder_ingest.events.engagement_columns import EngagementColumns, engagement_columns
from thunder_ingest.users.entries import UserEntries, entries_of
from thunder_ingest.users.positions import Positions, Span
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import UserRegister

log = logging.getLogger(__name__)

BATCH_MESSAGES = 50_000  # with lag, a large batch has many events of one user, and needs fewer writes
VOICES = "engagements-1"
"""The name of the input of engagements in the recovery store. An earlier version kept sums, which cannot be turned into
voices. So the name is new: the flow reads the log from its beginning once more."""


RECENT_S: Final = 30.0
"""Age of the oldest batch that is kept to be written again, counted without a present outage."""
RECENT_USERS: Final = 100_000
"""Users of these batches at most: some ten MB."""


class UserWrites(NamedTuple):
    """The entries of a batch for users' states; `suffix` names the batch, so that a replay writes the same fields."""

    entries: UserEntries
    suffix: str
    span: Span
    """Partition and offsets of the batch."""


class Engaged(NamedTuple):
    """A batch with its events as columns."""

    batch: Batch
    columns: EngagementColumns


def engaged(decoded: Decoded) -> Engaged:
    """Return the columns of a batch."""
    return Engaged(decoded.batch, engagement_columns(decoded.events))


def user_writes(engaged: Engaged) -> UserWrites:
    """Return the entries of users' states for the events of a batch."""
    batch = engaged.batch
    span = Span(batch.part, batch.before, batch.after)
    if not batch.messages:
        return UserWrites({}, "", span)
    first, last = batch.messages[0].offset() or 0, batch.messages[-1].offset()
    suffix = f"{batch.topic[0]}{batch.partition}-{first}-{last}"
    return UserWrites(entries_of(engaged.columns), suffix, span)


def count_changes(engaged: Engaged) -> list[tuple[str, Changes]]:
    """Return the changes of post counts by a batch, keyed by shard."""
    changes = by_shard(changes_of_columns(engaged.columns), SHARDS)
    return [(shard_name(shard), rows) for shard, rows in changes.items()]


class UserSink(DynamicSink[UserWrites]):
    """Writes users' states to Redis."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> "_UserWriter":
        """Connect a worker; wait while Redis is unreachable."""
        redis_retry = RedisRetry(self._settings, stopping)
        try:
            client = redis_retry.connect()
            build = patiently(
                lambda: redis_retry.run(lambda: FirstBuild(self._settings, client)), wait_for_kafka(self._settings)
            )
        except (StopRequested, RedisRefused) as error:
            exit_now(error)
        return _UserWriter(client, build, redis_retry)


class _UserWriter(StatelessSinkPartition[UserWrites]):
    """Writes batches, and repairs a Redis that lacks batches which it has acknowledged.

    Each batch, also an empty one, checks the position in Redis. If Redis went back in time, the writer writes the last
    batches again. If these do not reach back far enough, it withdraws the mark of the register: requests fail with the
    reason until `foryou rebuild users`.
    """

    def __init__(self, client: Client, build: FirstBuild, redis_retry: RedisRetry) -> None:
        self._users, self._positions, self._register = UserStates(client), Positions(client), UserRegister(client)
        self._build, self._redis_retry = build, redis_retry
        self._recent = deque[tuple[float, UserWrites]]()
        self._recent_users = 0
        self._kept_from = dict[str, int]()
        """For each partition the offset from which on the batches are kept."""

    def write_batch(self, items: list[UserWrites]) -> None:
        began_s = time.monotonic()  # an outage that follows does not count as the age of a batch
        try:
            for item in items:
                self._write(item)
                self._keep(item, began_s)
            self._redis_retry.run(self._build.check)
        except (StopRequested, RedisRefused) as error:
            exit_now(error)

    def _write(self, item: UserWrites) -> None:
        """Write a batch, and first those before it that Redis lacks."""
        part, before, _ = item.span
        stored = self._redis_retry.run(partial(self._attempt, item))
        if stored is not None and stored >= self._kept_from.get(part, before):
            log.warning("Redis has lost the writes of %s from offset %d on: they are written again", part, stored)
            self._users.forget_registered()
            for _, kept in self._recent:
                self._redis_retry.run(partial(self._attempt, kept))
            stored = self._redis_retry.run(partial(self._attempt, item))
        if stored is not None:
            log.error(
                "Redis has lost the writes of %s from offset %d to %d: requests fail until `foryou rebuild users` has "
                "read the log",
                *(part, stored, before),
            )
            self._users.forget_registered()
            self._redis_retry.run(self._register.withdraw)
            self._redis_retry.run(partial(self._positions.replace, item.span))

    def _attempt(self, item: UserWrites) -> int | None:
        """Write a batch; return the position in Redis if it lacks earlier batches of the partition."""
        entries, suffix, span = item
        replies = self._users.write(entries, suffix, self._positions.advance(span))
        self._build.note(span.part, span.before)
        return self._positions.stored(span, replies)

    def _keep(self, item: UserWrites, now_s: float) -> None:
        """Keep a batch, and drop those that every replica has by now."""
        self._kept_from.setdefault(item.span.part, item.span.before)
        if item.span.after != item.span.before:
            self._recent.append((now_s, item))
            self._recent_users += len(item.entries)
        while self._recent and (now_s - self._recent[0][0] > RECENT_S or self._recent_users > RECENT_USERS):
            _, dropped = self._recent.popleft()
            self._recent_users -= len(dropped.entries)
            self._kept_from[dropped.span.part] = dropped.span.after


def build_flow(
    engagements: Source[Batch],
    graph: Source[Batch],
    users: Sink[UserWrites],
    counts: Sink[tuple[str, Changes]],
    accounts: Sink[tuple[str, list[AccountState]]],
    records: Sink[list[Record]],
    decode: Decoder,
) -> Dataflow:
    """Return the dataflow with its steps."""
    flow = Dataflow("engagements")
    both = op.merge("both", op.input(VOICES, flow, engagements), op.input("social-graph", flow, graph))
    decoded = op.map("decode", both, decode)
    columns = op.map("columns", decoded, engaged)
    op.output("users", op.map("user-writes", columns, user_writes), users)
    op.output("dead-letters", op.map("refused", decoded, lambda each: each.refused), records)
    op.output("accounts", op.flat_map("account-states", decoded, account_states), accounts)
    op.output("post-counts", op.flat_map("count", columns, count_changes), counts)
    return flow


def flow() -> Dataflow:
    """Return the flow for the servers of the settings."""
    settings = start(["engagements", "social-graph", TOPIC, CHANGELOG, ACCOUNTS, "dead-letters"])
    warm_up()  # now: the first events would wait seconds for it
    name, clock = "flows.engagements", clock_of(settings.clock)
    return build_flow(
        KafkaSource(settings, "engagements", name, BATCH_MESSAGES),
        KafkaSource(settings, "social-graph", name),
        UserSink(settings),
        CountSink(KafkaTopics(settings), clock, settings.remembered_ms, settings.max_voices),
        account_sink(settings),
        KafkaSink(settings),
        Decoder(settings, clock),
    )
