"""Counts against a model of a few lines: one account is one voice per post and action, the last writer by time."""

import random
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunder_ingest.counts.changelog import pack_changes, unpack_changes
from thunder_ingest.counts.columns import COUNT_COLUMNS
from thunder_ingest.counts.table import Changes, CountTable, by_shard, changes_of
from thunder_ingest.counts.voices import KEY, SAMPLE
from thunder_ingest.events import (
    ACTION_INDEX,
    ACTIONS,
    IMPRESSION,
    NEGATIVE_ACTIONS,
    ActionName,
    Engagement,
    EngagementEvent,
    Follow,
    Impression,
    PostCounts,
)
from thunder_ingest.events.ids import id64
from thunder_ingest.users.compact_form import decode_entries, encode
from thunder_ingest.users.entries import entries_by_user
from thunder_ingest.users.history import positions

T0 = 1_700_000_000_000
AGE_MS = 1_000
DWELL_TIME, FAVORITE, REPORT = (ACTION_INDEX[name] for name in ("dwell_time", "favorite", "report"))

times = st.integers(T0, T0 + 3)
people = st.integers(1, 3)
posts = st.integers(1, 3)
events: st.SearchStrategy[EngagementEvent] = st.one_of(
    st.builds(Impression, user_id=people, post_id=posts, author_id=st.just(9), at=times),
    st.builds(
        Engagement,
        user_id=people,
        post_id=posts,
        author_id=st.just(9),
        action=st.sampled_from(["favorite", "report", "dwell_time"]),
        dwell_ms=st.integers(0, 3),
        at=times,
        undo=st.booleans(),
    ),
)
Totals = dict[int, tuple[int, list[int]]]
"""The time of the newest event, and the totals, by post."""


def model(events: Iterable[EngagementEvent]) -> Totals:
    """The newest event of each account, post and action decides; an undo wins a tie, but not against a report."""
    newest, at = dict[tuple[int, int, int], tuple[int, bool, int]](), dict[int, int]()
    for event in events:
        column, undo, amount = IMPRESSION, False, 1
        if isinstance(event, Engagement):
            column, undo = ACTION_INDEX[event.action], bool(event.undo)
            amount = 0 if undo else (event.dwell_ms or 0) if column == DWELL_TIME else 1
        voice = int(event.post_id), column, int(event.user_id)
        newest[voice] = max(newest.get(voice, (0, False, 0)), (event.at, undo != (column == REPORT), amount))
        at[voice[0]] = max(at.get(voice[0], 0), event.at)
    totals = {post_id: (at[post_id], [0] * COUNT_COLUMNS) for post_id in at}
    for (post_id, column, _), (_, _, amount) in newest.items():
        totals[post_id][1][column] += amount
    return totals


def found(records: Iterable[PostCounts]) -> Totals:
    return {record.post_id: (record.at, record.totals) for record in records}


def table_of(*batches: Iterable[EngagementEvent], sample: int = SAMPLE) -> CountTable:
    table = CountTable(AGE_MS, sample=sample)
    for each in batches:
        table.add(changes_of(each), T0)
    return table


def totals(table: CountTable, now_ms: int = T0) -> Totals:
    """The totals of all posts; a repeated event makes a table write a post again."""
    table.add(table.all_changes(), 0)
    return found(table.drain(now_ms).records)


def acted(users: Iterable[int], action: ActionName = "favorite", at: int = T0, undo: bool = False) -> list[Engagement]:
    return [Engagement(user_id=user, post_id=5, author_id=9, action=action, at=at, undo=undo) for user in users]


def viewed(*post_ids: int, at: int = T0, user: int = 1) -> list[Impression]:
    return [Impression(user_id=user, post_id=post_id, author_id=9, at=at) for post_id in post_ids]


def restored(changes: Sequence[Changes], sample: int = SAMPLE) -> CountTable:
    table = CountTable(AGE_MS, sample=sample)
    for each in changes:
        table.restore(unpack_changes(pack_changes(each)))
    table.restored()
    return table


@given(st.lists(events, max_size=30), st.randoms(use_true_random=False))
def test_a_log_once_three_times_over_doubled_or_shuffled_gives_the_same_counts(
    log: list[EngagementEvent], random: random.Random
) -> None:
    shuffled = random.sample(log, len(log))
    expected = model(log)
    assert totals(table_of(log)) == expected
    assert totals(table_of(log, log, log)) == expected
    assert totals(table_of([event for each in log for event in (each, each)])) == expected
    assert totals(table_of(shuffled)) == expected


@given(st.lists(st.lists(events, max_size=5), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_changes_of_a_table_restore_it_in_any_order_and_any_number_of_times(
    batches: list[list[EngagementEvent]], random: random.Random
) -> None:
    table, changes = CountTable(AGE_MS), list[Changes]()
    for each in batches:
        table.add(changes_of(each), T0)
        changes.append(table.drain(T0).changes)
    expected = model(event for events in batches for event in events)
    assert totals(restored(random.choices(changes, k=9) + random.sample(changes, len(changes)))) == expected
    assert totals(restored([table.all_changes()])) == expected


@given(st.lists(events, max_size=20), st.integers(1, 4))
def test_the_counts_of_all_shards_add_up_to_those_of_one_table(events: list[EngagementEvent], shards: int) -> None:
    parts = Totals()
    for shard, changes in by_shard(changes_of(events), shards).items():
        table = CountTable(AGE_MS)
        table.add(changes, T0)
        parts |= totals(table)
        assert set((changes[:, 0] % shards).tolist()) == {shard}
    assert parts == model(events)


def test_ten_thousand_likes_of_one_account_are_one() -> None:
    likes = [like for at in range(10_000) for like in acted([1], at=T0 + at % 7)]
    assert totals(table_of(likes))[5][1][FAVORITE] == 1


def test_an_account_with_an_id_of_either_form_is_one_voice() -> None:
    ids: list[int | str] = [7, "7", "did:plc:a", "did:plc:a"]
    log = [Engagement(user_id=each, post_id="5", author_id=9, action="favorite", at=T0) for each in ids]
    assert totals(table_of(log))[5][1][FAVORITE] == 2


def test_a_hundred_undos_of_one_account_take_back_no_like_of_others() -> None:
    undos = [undo for at in range(100) for undo in acted([1], at=T0 + at, undo=True)]
    assert totals(table_of(undos, acted(range(2, 62), at=T0 + 200)))[5][1][FAVORITE] == 60
    assert totals(table_of(acted(range(2, 62)), undos))[5][1][FAVORITE] == 60


@pytest.mark.parametrize("action", ACTIONS)
def test_counts_and_the_history_of_a_viewer_agree_on_an_action_and_its_undo_of_one_time(action: ActionName) -> None:
    done, undo = acted([1], action), acted([1], action, undo=True)
    for order in ((done, undo), (undo, done)):
        column = totals(table_of(*order))[5][1][ACTION_INDEX[action]]
        history = entries_by_user([*order[0], *order[1]])["1"]["history"]
        in_history = positions(decode_entries("history", [encode("history", history)]), 10)
        assert len(in_history) == (action in NEGATIVE_ACTIONS)
        assert column == (action in NEGATIVE_ACTIONS)


def test_the_newest_word_of_an_account_counts_and_an_undo_wins_a_tie() -> None:
    like, undo, again = acted([1]), acted([1], at=T0 + 1, undo=True), acted([1], at=T0 + 2)
    for order in ((like, undo), (undo, like)):
        assert totals(table_of(*order))[5][1][FAVORITE] == 0
        assert totals(table_of(*order, again))[5][1][FAVORITE] == 1
    tie = acted([1], at=T0 + 1)
    assert totals(table_of(tie, undo)) == totals(table_of(undo, tie)) == {5: (T0 + 1, [0] * COUNT_COLUMNS)}


def test_dwell_is_the_newest_of_each_account_and_may_exceed_32_bits() -> None:
    longest = 2**31 - 1
    dwell = [
        Engagement(user_id=user, post_id=5, author_id=9, action="dwell_time", dwell_ms=dwell_ms, at=T0 + at)
        for user, at, dwell_ms in [(1, 0, 700), (1, 1, 500), (2, 0, longest), (3, 0, longest), (3, 0, 1)]
    ]
    assert totals(table_of(dwell))[5][1][DWELL_TIME] == 500 + 2 * longest


def test_the_social_graph_counts_nothing() -> None:
    assert len(changes_of([Follow(user_id=1, target_id=2, at=T0)])) == 0


def test_a_table_holds_any_number_of_posts() -> None:
    table = table_of(viewed(*range(1, 5_001)))
    assert len(totals(restored([table.drain(T0).changes]))) == len(table) == 5_000


def test_a_post_is_written_for_each_event_even_if_it_changes_nothing() -> None:
    table = table_of(acted([1]))
    changes = table.drain(T0).changes
    assert table.drain(T0).records == []
    again = restored([changes])
    assert again.drain(T0).records == []
    for each in (table, again):  # the earlier process may have ended before it wrote the totals of this event
        each.add(changes_of(acted([1])), T0)
        drained = each.drain(T0)
        assert [record.post_id for record in drained.records] == [5]
        assert len(drained.changes) == 0


# --- very popular posts: a sample -----------------------------------------------------------------------------------


@pytest.mark.parametrize("accounts", [SAMPLE, SAMPLE + 1, 20_000, 500_000])
def test_a_popular_post_takes_bounded_memory_and_its_count_has_the_stated_error(accounts: int) -> None:
    table = table_of(acted(range(1, accounts + 1)), acted(range(1, accounts + 1, 3)))
    count = totals(table)[5][1][FAVORITE]
    assert table.voices <= SAMPLE
    assert abs(count - accounts) <= (4 / (SAMPLE / 2) ** 0.5 * accounts if accounts > SAMPLE else 0)


def test_undos_count_in_a_sample() -> None:
    table = table_of(acted(range(1, 100_001)), acted(range(1, 50_001), at=T0 + 1, undo=True))
    assert abs(totals(table)[5][1][FAVORITE] - 50_000) < 4 * 0.031 * 100_000


@given(st.lists(st.integers(1, 400), min_size=1, max_size=400), st.integers(1, 9), st.randoms(use_true_random=False))
def test_a_sample_does_not_depend_on_order_repetition_or_restarts(
    users: list[int], pieces: int, random: random.Random
) -> None:
    log = acted(users, at=T0) + acted(users[::3], at=T0 + 1, undo=True)
    expected = totals(table_of(log, sample=16))
    changes, table = list[Changes](), CountTable(AGE_MS, sample=16)
    for event in [*random.sample(log, len(log)), *random.choices(log, k=9)]:
        table.add(changes_of([event]), T0)
        if random.randrange(pieces) == 0:
            changes.append(table.drain(T0).changes)
            table = restored(random.sample(changes, len(changes)), sample=16)
    assert totals(restored([*changes, table.all_changes()], sample=16)) == expected
    assert table.voices <= 16


# --- forgetting -----------------------------------------------------------------------------------------------------


def test_a_post_is_forgotten_with_a_tombstone_and_its_voices() -> None:
    table = table_of(viewed(5, 6))
    table.add(changes_of(viewed(6, at=T0 + 900)), T0 + 900)
    drained = table.drain(T0 + AGE_MS + 1)
    assert drained.forgotten == [5]
    assert [record.post_id for record in drained.records] == [6]
    assert (len(table), table.voices) == (1, 1)
    assert table.drain(T0 + AGE_MS + 1).forgotten == []
    assert totals(restored([table.all_changes()])) == {6: (T0 + 900, [0] * IMPRESSION + [1])}


def test_a_late_event_counts_nothing_whether_its_post_is_in_the_table_or_not() -> None:
    now_ms = T0 + AGE_MS + 100
    table = table_of(viewed(5, 6))
    table.add(changes_of(viewed(6, at=now_ms)), now_ms)
    table.add(changes_of(viewed(5, 6, 7, at=T0 + 99, user=2)), now_ms)
    assert totals(table, T0) == {5: (T0, [0] * IMPRESSION + [1]), 6: (now_ms, [0] * IMPRESSION + [1])}


def test_a_log_that_spans_more_than_the_remembered_time_gives_the_same_counts_three_times_over() -> None:
    table, newest = CountTable(AGE_MS), dict[int, PostCounts | None]()
    once = dict[int, PostCounts | None]()
    now_ms = T0
    for _ in range(3):
        for at in range(T0, T0 + 10 * AGE_MS, 100):
            now_ms = max(now_ms, at)
            table.add(changes_of(viewed(at // 100, at // 100 + 1, at=at)), now_ms)
            drained = table.drain(now_ms)
            newest |= dict.fromkeys(drained.forgotten) | {record.post_id: record for record in drained.records}
        once = once or dict(newest)
    assert newest == once
    assert len(table) <= 2 + AGE_MS // 100 * 8 // 7


def test_the_number_of_voices_is_bounded_and_the_idle_posts_go_first() -> None:
    table = CountTable(AGE_MS, max_voices=80)
    for at in range(300):
        table.add(changes_of(viewed(at + 1, at=T0 + at)), T0 + at)
        forgotten = table.drain(T0 + at).forgotten
        assert table.voices <= 80
        assert all(post_id < at + 1 - 60 for post_id in forgotten)
    assert len(table) == table.voices >= 70


def test_the_order_of_pieces_in_one_call_makes_no_difference() -> None:
    changes = changes_of(acted(range(1, 60_000)))
    one, other = CountTable(AGE_MS), CountTable(AGE_MS)
    one.add(changes, T0)
    other.add(np.ascontiguousarray(changes[::-1]), T0)
    assert totals(one) == totals(other)


def test_an_account_with_a_string_id_has_the_voice_of_its_number() -> None:
    accounts: list[int | str] = ["did:a", 7, "7", "did:b", "did:a", id64("did:b")]
    voices = changes_of(Impression(user_id=each, post_id=5, author_id=1, at=T0) for each in accounts)[:, KEY].tolist()
    assert [voices[place] for place in (4, 2, 5)] == [voices[place] for place in (0, 1, 3)]
    assert len(set(voices)) == 3
