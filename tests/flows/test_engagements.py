from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flows.accounts import PART, ApplyAccounts
from flows.counts import SHARDS, CountSink
from flows.decoding import Decoder
from flows.engagements import UserWrites, build_flow
from flows.sources import Batch
from infra.ports.clock import DAY_MS, HOUR_MS, LogClock, now_ms
from infra.ports.producer import Record
from infra.ports.settings import Settings
from tests.flows.messages import batch
from thunder_ingest.events import (
    ACCOUNT_STATUSES,
    ACTION_INDEX,
    IMPRESSION,
    Account,
    AccountState,
    AccountStatus,
    Block,
    Engagement,
    Event,
    Follow,
    Impression,
    PostCounts,
    Unblock,
    key_of_id,
    pack,
    unpack_account,
    unpack_counts,
)
from thunder_ingest.events.ids import id64
from thunder_ingest.users.accounts import AccountTable
from thunder_ingest.users.redis_form import UserStates

T0 = 1_700_000_000_000
FAVORITE = ACTION_INDEX["favorite"]
LATER = T0 + DAY_MS


def favorite(user: int = 1, post: int = 10, at: int = T0, undo: bool | None = None) -> Engagement:
    return Engagement(user_id=user, post_id=post, author_id=7, action="favorite", at=at, undo=undo)


def seen(user: int = 1, post: int = 10, at: int = T0) -> Impression:
    return Impression(user_id=user, post_id=post, author_id=7, at=at)


class MemoryTopics:
    """The two topics of counts as lists of records, in a single partition."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def read(self, topic: str) -> Iterator[tuple[bytes, bytes | None]]:
        return iter([(record.key or b"", record.value) for record in self.records if record.topic == topic])

    def write(self, records: Iterable[Record]) -> None:
        self.records += records


def run(
    engagements: list[Any],
    graph: list[Any] | None = None,
    recovery: RecoveryConfig | None = None,
    topics: MemoryTopics | None = None,
    accounts: list[tuple[str, list[AccountState]]] | None = None,
) -> tuple[list[UserWrites], list[Record]]:
    users, refused = list[UserWrites](), list[list[Record]]()
    topics, clock = topics or MemoryTopics(), LogClock()
    flow = build_flow(
        TestingSource[Batch](engagements),
        TestingSource[Batch](graph or []),
        TestingSink(users),
        CountSink(topics, clock, 48 * HOUR_MS, 1_000_000, fail=lambda reason: pytest.fail(str(reason))),
        TestingSink([] if accounts is None else accounts),
        TestingSink(refused),
        Decoder(Settings(), clock),
    )
    run_main(flow, recovery_config=recovery, epoch_interval=timedelta(0))
    return [each for each in users if each.entries], topics.records + [record for each in refused for record in each]


def counts(records: list[Record]) -> dict[int, PostCounts | None]:
    return {
        int(record.key or 0): unpack_counts(record.value) if record.value else None
        for record in records
        if record.topic == "post-counts"
    }


def total(records: list[Record], post_id: int = 10, column: int = FAVORITE) -> int:
    found = counts(records)[post_id]
    assert found is not None
    return found.totals[column]


def test_actions_and_impressions_are_counted_for_each_post() -> None:
    events: list[Event] = [seen(), favorite(), seen(user=2), favorite(post=11)]
    _, records = run([batch("engagements", *events)])
    assert (total(records), total(records, column=IMPRESSION), total(records, 11)) == (1, 2, 1)


def test_an_undone_action_is_subtracted() -> None:
    _, records = run([batch("engagements", favorite(), favorite(at=T0 + 1, undo=True))])
    assert total(records) == 0


def test_a_like_that_is_published_five_times_counts_once() -> None:
    _, records = run([batch("engagements", *[favorite()] * 3), batch("engagements", *[favorite()] * 2, start=3)])
    assert total(records) == 1


def test_ten_thousand_likes_of_one_account_count_once() -> None:
    _, records = run([batch("engagements", *[favorite(at=T0 + at) for at in range(10_000)])])
    assert total(records) == 1


def test_undos_of_what_was_never_done_take_back_no_later_like() -> None:
    undos = [favorite(at=T0 + at, undo=True) for at in range(100)]
    likes = [favorite(user=user, at=T0 + 200) for user in range(2, 62)]
    _, records = run([batch("engagements", *undos), batch("engagements", *likes, start=100)])
    assert total(records) == 60


def crashing(*batches: Batch) -> list[Any]:
    """A source that crashes after each batch but the last, once each."""
    return [item for each in batches for item in (each, TestingSource.ABORT())][:-1]


def test_a_crash_and_a_replay_count_nothing_twice(tmp_path: Path) -> None:
    init_db_dir(tmp_path, 1)
    recovery, topics = RecoveryConfig(str(tmp_path)), MemoryTopics()
    source = crashing(*[batch("engagements", favorite(user=user), start=user) for user in range(1, 6)])
    for _ in range(5):
        run(source, recovery=recovery, topics=topics)
    assert total(topics.records) == 5


def test_a_log_that_is_read_from_its_beginning_again_gives_the_same_counts(tmp_path: Path) -> None:
    topics = MemoryTopics()
    log = [batch("engagements", favorite(user=user), seen(user=user), start=2 * user) for user in range(1, 6)]
    _, records = run(log, topics=topics)
    once = counts(records)
    for _ in range(2):
        run(log, topics=topics)
    assert counts(topics.records) == once
    _, elsewhere = run([batch("engagements", favorite(user=6), start=99)], topics=topics)
    assert total(elsewhere) == 6


def test_a_lost_changelog_ends_the_flow_instead_of_counting_from_zero(tmp_path: Path) -> None:
    init_db_dir(tmp_path, 1)
    recovery = RecoveryConfig(str(tmp_path))
    source = [batch("engagements", favorite()), TestingSource.ABORT(), batch("engagements", favorite(user=2), start=1)]
    run(source, recovery=recovery)
    with pytest.raises(BaseException, match="post-counts-changelog is empty"):
        run(source, recovery=recovery)


def test_the_counts_of_a_forgotten_post_get_a_tombstone_and_so_do_those_of_an_earlier_version() -> None:
    topics = MemoryTopics()
    old = PostCounts(post_id=77, at=LATER - 48 * HOUR_MS - 1, totals=[9])
    topics.write([Record("post-counts", b"77", pack(old)), Record("post-counts", b"78", pack(replace(old, at=LATER)))])
    run([batch("engagements", favorite(post=post, at=LATER), start=post) for post in (10, 11, 12)], topics=topics)
    assert [post_id for post_id, each in counts(topics.records).items() if each is None] == [77]
    after = favorite(post=10 + SHARDS, at=LATER + 48 * HOUR_MS + 1)  # the shard of 10
    run([batch("engagements", after, start=9)], topics=topics)
    found = counts(topics.records)
    assert found[10] is found[77] is None
    assert None not in (found[11], found[74], found[78])


def test_a_refused_engagement_is_a_dead_letter_and_the_rest_is_written(valkey: redis.Redis) -> None:
    writes, records = run([batch("engagements", favorite(), b'{"type":"engagement","action":"like"}', seen(user=2))])
    assert [record.topic for record in records].count("dead-letters") == 1
    users = UserStates(valkey)
    for entries, suffix, _ in writes:
        users.write(entries, suffix)
    first, second = users.read(["1", "2"])
    assert first.positions["post_id"].tolist() == [10]
    assert second.seen.tolist() == [10]


def test_an_event_too_far_in_the_future_is_a_dead_letter_of_either_topic() -> None:
    ahead = now_ms() + Settings().future_tolerance_ms + HOUR_MS
    follow = Follow(user_id=1, target_id=2, at=ahead)
    writes, records = run([batch("engagements", favorite(at=ahead))], [batch("social-graph", follow)])
    assert writes == []
    assert [record.topic for record in records] == ["dead-letters", "dead-letters"]


def test_a_block_stands_against_an_unblock_of_a_fast_clock(valkey: redis.Redis) -> None:
    ahead, later = Unblock(user_id=1, target_id=2, at=T0 + 120_000), Block(user_id=1, target_id=2, at=T0 + 30_000)
    for arrived_ms in (T0, T0 + 900):
        valkey.flushall()
        graph = [
            batch("social-graph", ahead, arrived_ms=T0),
            batch("social-graph", later, start=1, arrived_ms=arrived_ms),
        ]
        writes, _ = run([], graph)
        users = UserStates(valkey)
        for entries, suffix, _ in writes:
            users.write(entries, suffix)
        (state,) = users.read(["1"])
        assert state.blocks.tolist() == [2]


def test_an_author_007_is_not_the_blocked_7(valkey: redis.Redis) -> None:
    follows = [Follow(user_id=1, target_id=author, at=T0) for author in ("007", 7)]
    writes, _ = run([], [batch("social-graph", *follows, Block(user_id=1, target_id="7", at=T0))])
    users = UserStates(valkey)
    for entries, suffix, _ in writes:
        users.write(entries, suffix)
    first, seven, double_o_seven = users.read(["1", "7", "007"])
    assert first.blocks.tolist() == [7]
    assert first.following.tolist() == sorted([7, id64("007")])
    assert (seven.blocked_by.tolist(), double_o_seven.blocked_by.tolist()) == ([1], [])


def test_a_late_event_is_ordered_by_its_time_in_the_history(valkey: redis.Redis) -> None:
    writes, _ = run([batch("engagements", favorite(post=11, at=T0 + 9 * HOUR_MS), favorite(post=10))])
    users = UserStates(valkey)
    for entries, suffix, _ in writes:
        users.write(entries, suffix)
    assert users.read(["1"])[0].positions["post_id"].tolist() == [10, 11]


def test_a_block_is_in_the_state_of_both_users(valkey: redis.Redis) -> None:
    writes, _ = run(
        [],
        [
            batch(
                "social-graph",
                Follow(user_id="did:plc:a", target_id=2, at=T0),
                Block(user_id="did:plc:a", target_id="2", at=T0 + 1),
            )
        ],
    )
    users = UserStates(valkey)
    for _ in range(2):  # a replay writes the same fields again
        for entries, suffix, _ in writes:
            users.write(entries, suffix)
    blocker, blocked = users.read(["did:plc:a", "2"])
    assert blocker.blocks.tolist() == blocker.following.tolist() == [2]
    assert len(blocked.blocked_by) == 1


# --- accounts -------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from(ACCOUNT_STATUSES), st.integers(1, 4)), max_size=10), st.data()
)
def test_the_newest_status_of_an_account_counts_in_any_order_and_number_of_events(
    words: list[tuple[int, AccountStatus, int]], data: st.DataObject
) -> None:
    in_order = sorted(words, key=lambda word: (word[2], ACCOUNT_STATUSES.index(word[1])))
    expected = {user: status for user, status, _ in in_order}
    written: list[Record] = []
    log = [*data.draw(st.permutations(words)), *words]
    restarts = data.draw(st.sets(st.integers(0, len(log))))
    apply = ApplyAccounts(lambda _: None)
    for place, (user, status, at) in enumerate(log):
        if place in restarts:
            apply = ApplyAccounts(restored_from(written))
        written += apply([AccountState(user_id=user, status=status, at=T0 + at)])
    last = {record.key: unpack_account(record.value or b"").status for record in written}
    assert last == {key_of_id(user): status for user, status in expected.items()}


def restored_from(records: list[Record]) -> Callable[[AccountTable], None]:
    def restore(table: AccountTable) -> None:
        table.apply(unpack_account(record.value or b"") for record in records)

    return restore


def test_an_account_event_goes_to_its_sink_and_changes_no_user() -> None:
    accounts: list[tuple[str, list[AccountState]]] = []
    suspended = Account(user_id="did:a", status="suspended", at=T0)
    users, records = run(
        [], [batch("social-graph", suspended, Follow(user_id=1, target_id=2, at=T0))], accounts=accounts
    )
    assert accounts == [(PART, [AccountState(user_id=id64("did:a"), status="suspended", at=T0)])]
    assert [set(each.entries) for each in users] == [{"1"}]
    assert records == []
