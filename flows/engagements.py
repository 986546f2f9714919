"""engagements, social-graph ▸ Redis `user:{id}`, post-counts and accounts; refused messages ▸ dead-letters.

Run with `python -m flows engagements --recovery DIR`. A user's state in Redis is a set of small entries.
A reader joins them, and the last writer by event time wins, so writes are idempotent. So are the counts per post: one
account is one voice per post and action (`flows.counts`).
"""

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
from flows.process import exit_now, start, stopping
from flows.sinks import KafkaSink
from flows.sources import Batch, KafkaSource
from infra.ports.clock import clock_of
from infra.ports.errors import RedisRefused, StopRequested
from infra.ports.producer import Record
from infra.ports.redis import RedisRetry
from infra.ports.settings import Settings
from thunder_ingest.counts.table import Changes, by_shard, changes_of_columns, warm_up
from thunder_ingest.events import AccountState
from thunder_ingest.events.engagement_columns import EngagementColumns, engagement_columns
from thunder_ingest.users.entries import UserEntries, entries_of
from thunder_ingest.users.redis_form import UserStates

BATCH_MESSAGES = 50_000  # with lag, a large batch has many events of one user, and needs fewer writes
VOICES = "engagements-1"
"""The name of the input of engagements in the recovery store. An earlier version kept sums, which cannot be turned into
voices. So the name is new: the flow reads the log from its beginning once more."""


RECENT_S: Final = 30.0
"""Age of the oldest batch that is written again to a new primary."""
RECENT_USERS: Final = 100_000
"""Users of these batches at most: some ten MB."""


class UserWrites(NamedTuple):
    """The entries of a batch for users' states; `suffix` names the batch, so that a replay writes the same fields."""

    entries: UserEntries
    suffix: str
    start: tuple[str, int, int] | None = None
    """Topic, partition and first offset of the batch; None if it is empty."""


class Engaged(NamedTuple):
    """A batch with its events as columns."""

    batch: Batch
    columns: EngagementColumns


def engaged(decoded: Decoded) -> Engaged:
    """Return the columns of a batch."""
    return Engaged(decoded.batch, engagement_columns(decoded.events))


def user_writes(engaged: Engaged) -> UserWrites:
    """Return the entries of users' states for the events of a batch."""
    topic, partition, messages = engaged.batch
    if not messages:
        return UserWrites({}, "")
    first, last = messages[0].offset() or 0, messages[-1].offset()
    suffix = f"{topic[0]}{partition}-{first}-{last}"
    return UserWrites(entries_of(engaged.columns), suffix, (topic, partition, first))


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
            build = redis_retry.run(lambda: FirstBuild(self._settings, client))
        except (StopRequested, RedisRefused) as error:
            exit_now(error)
        return _UserWriter(UserStates(client), build, redis_retry)


class _UserWriter(StatelessSinkPartition[UserWrites]):
    """Writes batches, and after an interruption the last batches again.

    Redis replicates after its reply: a replica that becomes the primary may lack the last writes.
    """

    def __init__(self, users: UserStates, build: FirstBuild, redis_retry: RedisRetry) -> None:
        self._users, self._build, self._redis_retry = users, build, redis_retry
        self._recent = deque[tuple[float, UserWrites]]()
        self._recent_users = 0
        self._interruptions = redis_retry.interruptions

    def write_batch(self, items: list[UserWrites]) -> None:
        try:
            for item in items:
                self._redis_retry.run(partial(self._write, item))
                self._keep(item)
            self._redis_retry.run(self._build.check)
            while self._interruptions != self._redis_retry.interruptions:
                self._interruptions = self._redis_retry.interruptions
                self._users.forget_registered()
                for _, item in self._recent:
                    self._redis_retry.run(partial(self._write, item))
        except (StopRequested, RedisRefused) as error:
            exit_now(error)

    def _keep(self, item: UserWrites) -> None:
        """Keep a batch for a new primary, and drop those that every replica has by now."""
        now_s = time.monotonic()
        if item.entries:
            self._recent.append((now_s, item))
            self._recent_users += len(item.entries)
        while self._recent and (now_s - self._recent[0][0] > RECENT_S or self._recent_users > RECENT_USERS):
            self._recent_users -= len(self._recent.popleft()[1].entries)

    def _write(self, item: UserWrites) -> None:
        entries, suffix, start = item
        if entries:
            self._users.write(entries, suffix)
        if start is not None:
            self._build.note(*start)


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
