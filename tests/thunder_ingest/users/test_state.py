from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.ports.clock import HOUR_MS
from tests.thunder_ingest.users.users import (
    DO,
    SMALL,
    T0,
    UNDO,
    Fields,
    compacted,
    edge,
    favorite,
    impression,
    mute,
    plain,
    tails_of,
    unmute,
)
from thunder_ingest.events import (
    NEGATIVE_ACTIONS,
    Block,
    Engagement,
    EngagementEvent,
    Follow,
    GraphEvent,
    Impression,
    Mute,
    MuteKeyword,
    Subscribe,
    Unblock,
    Unfollow,
    Unmute,
    UnmuteKeyword,
    Unsubscribe,
)
from thunder_ingest.events.ids import id64
from thunder_ingest.users.compact_form import decode_entries, encode
from thunder_ingest.users.entries import view_entry
from thunder_ingest.users.state import UserState, compact, decode, join

SEEN: dict[str, Any] = {"seen": None, "seen_before": None}

# --- decode ---------------------------------------------------------------------------------------------------------


def test_an_unknown_user_has_an_empty_state() -> None:
    state = UserState.empty()
    assert not state.is_known
    assert all(len(value) == 0 for name, value in plain(state).items() if name not in ("is_known", "is_whole"))


def test_a_user_with_served_posts_alone_is_still_unknown() -> None:
    state = decode({b"served+r": encode("served", [view_entry(T0, 5)])})
    assert (state.is_known, state.served_ids.tolist(), state.served_at.tolist()) == (False, [5], [T0])
    assert decode(tails_of([impression(1)])).is_known


def test_the_state_follows_the_events() -> None:
    state = decode(
        tails_of(
            [
                edge(Follow, 1, target=9),
                edge(Follow, 1, target=3),
                edge(Block, 1, target="did:b"),
                edge(Mute, 1, target=5),
                edge(Subscribe, 1, target=6),
                mute(1, "spoiler alert"),
                mute(1, "Ärger"),
                impression(1, post_id=11),
                favorite(9, post_id=10),
            ]
        )
    )
    assert state.following.tolist() == [3, 9]
    assert (state.blocks.tolist(), state.mutes.tolist(), state.subscriptions.tolist()) == ([id64("did:b")], [5], [6])
    assert state.keywords == ("spoiler alert", "Ärger")
    assert state.positions["post_id"].tolist() == [11, 10]
    assert state.positions["actions"].tolist() == [0, 1]
    assert state.seen.tolist() == [10, 11]


def test_the_blocked_user_learns_of_it() -> None:
    events = [edge(Block, 1, user=5, target=1), edge(Block, 1, user=6, target=1), edge(Unblock, 2, user=6, target=1)]
    assert decode(tails_of(events, user="1")).blocked_by.tolist() == [5]


def test_a_late_unfollow_of_before_changes_nothing() -> None:
    assert decode(tails_of([edge(Follow, 5), edge(Unfollow, 4)])).following.tolist() == [2]


def test_a_late_follow_of_before_the_unfollow_still_loses_after_a_compaction() -> None:
    stored = compacted(tails_of([edge(Follow, 1), edge(Unfollow, 5)]))
    assert decode(stored | tails_of([edge(Follow, 4)])).following.tolist() == []


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize("is_turned", [False, True])
def test_at_one_time_the_safer_word_stands(is_turned: bool, is_compacted: bool) -> None:
    pairs = [(Follow, Unfollow), (Block, Unblock), (Mute, Unmute), (Subscribe, Unsubscribe)]
    events = [edge(type_, 5) for pair in pairs for type_ in pair] + [unmute(5, "Café"), mute(5, "CAFE\u0301")]
    if is_turned:
        events.reverse()
    stored = tails_of(events)
    if is_compacted:
        stored = compacted(compacted(tails_of(events[::2])) | {name + b"-": value for name, value in stored.items()})
    state = decode(stored)
    assert (state.following.tolist(), state.subscriptions.tolist()) == ([], [])
    assert (state.blocks.tolist(), state.mutes.tolist(), state.keywords) == ([2], [2], ("CAFE\u0301",))


@pytest.mark.parametrize("other", ["Cafe\u0301", "ＣＡＦÉ", "ca\u200bfé", "#café!"])
def test_a_keyword_is_unmuted_in_any_spelling(other: str) -> None:
    stored = tails_of([mute(1, "Café"), mute(1, "other"), unmute(2, other)])
    for fields in (stored, compacted(stored)):
        assert decode(fields).keywords == ("other",)
    assert decode(stored | tails_of([mute(3, other)])).keywords == tuple(sorted(("other", other)))


def test_the_newest_muted_keywords_count_up_to_a_limit() -> None:
    stored = tails_of([mute(n, f"word {9 - n}") for n in range(5)])
    for fields in (stored, compacted(stored, SMALL)):
        assert decode(fields, SMALL).keywords == ("word 5", "word 6", "word 7")


def test_only_the_newest_posts_that_were_served_are_kept() -> None:
    views = [view_entry(T0 + n, 100 - n) for n in range(5)]
    state = decode({b"served+0": encode("served", views[::-1])}, SMALL)
    assert (state.served_ids.tolist(), state.served_at.tolist()) == ([97, 96], [T0 + 3, T0 + 4])


def test_posts_that_were_passed_over_are_positions_only_where_that_is_asked_for() -> None:
    events: list[EngagementEvent | GraphEvent] = [impression(n * HOUR_MS, post_id=n + 1) for n in range(9)]
    events.append(favorite(0, post_id=20))
    shown = decode(tails_of(events), SMALL).positions["post_id"].tolist()
    assert shown == [7, 8, 9]
    acted_on = replace(SMALL, passed_over=False)
    for fields in (tails_of(events), compacted(tails_of(events), acted_on)):
        state = decode(fields, acted_on)
        assert state.positions["post_id"].tolist() == [20]


def test_fields_of_kinds_that_come_later_are_passed_over_and_left_alone() -> None:
    stored = tails_of([impression(1)]) | {b"mood": b"\x07x", b"mood+1": b"\x07y", b"\xff": b""}
    assert decode(stored).seen.tolist() == [10]
    bases, tails, _ = compact(stored)
    assert not any(name.startswith((b"mood", b"\xff")) for name in [*bases, *tails])


# --- compaction -----------------------------------------------------------------------------------------------------

times = st.integers(0, 6)
small_ids = st.integers(2, 4)
graph = st.builds(edge, st.sampled_from([*DO, *UNDO]), times, target=small_ids)
keywords = st.builds(mute, times, st.sampled_from("xyß")) | st.builds(unmute, times, st.sampled_from("xyß"))
views = st.builds(impression, times.map(lambda n: n * 150_000), small_ids)
actions = st.builds(favorite, times.map(lambda n: n * 150_000), small_ids, undo=st.booleans())
event_lists = st.lists(graph | keywords | views | actions, max_size=16)


def model(events: list[EngagementEvent | GraphEvent]) -> dict[str, Any]:
    """The edges of each kind by the newest event on each target, one event at a time."""
    last: dict[tuple[str, str], tuple[int, bool, bool]] = {}
    for event in events:
        if isinstance(event, MuteKeyword | UnmuteKeyword):
            kind, target, done = "keywords", event.keyword, isinstance(event, MuteKeyword)
        elif isinstance(event, Impression | Engagement):
            continue
        else:
            kind, target, done = (DO | UNDO)[type(event)], str(event.target_id), type(event) in DO
        key = kind, target
        is_safer = done is (kind not in ("following", "subscriptions"))
        last[key] = max(last.get(key, (0, False, False)), (event.at, is_safer, done))
    kinds = [*DO.values(), "keywords"]
    return {kind: sorted(target for (k, target), (*_, done) in last.items() if k == kind and done) for kind in kinds}


def model_of_seen(events: list[EngagementEvent | GraphEvent]) -> set[int]:
    return {id64(e.post_id) for e in events if isinstance(e, Impression) or (isinstance(e, Engagement) and not e.undo)}


@settings(deadline=None)
@given(event_lists)
def test_edges_and_keywords_are_the_last_word_on_each(events: list[EngagementEvent | GraphEvent]) -> None:
    state = plain(decode(tails_of(events)))
    expected = model(events)
    assert {kind: list(map(str, state[kind])) for kind in expected} == expected
    assert state["seen"] == sorted(model_of_seen(events))


@settings(deadline=None, max_examples=200)
@given(event_lists, st.randoms(use_true_random=False))
def test_any_order_any_duplicates_and_compactions_at_any_time_lead_to_one_state(
    events: list[EngagementEvent | GraphEvent], random: Any
) -> None:
    expected = plain(decode(tails_of(events)))
    late = events + [event for event in events if random.random() < 0.4]
    random.shuffle(late)
    stored: Fields = {}
    for number, event in enumerate(late):
        stored |= {name + b"-%d" % number: value for name, value in tails_of([event]).items()}
        if random.random() < 0.3:
            stored = compacted(stored)
        elif random.random() < 0.3:
            joined, replaced = join(stored)
            stored = {name: value for name, value in (stored | joined).items() if name not in replaced}
    assert plain(decode(stored)) == expected


@settings(deadline=None, max_examples=200)
@given(event_lists, st.integers(1, 5))
def test_a_compacted_state_reads_as_before_also_where_it_forgets(
    events: list[EngagementEvent | GraphEvent], each: int
) -> None:
    stored = tails_of(events, each=each)
    once = compacted(stored, SMALL)
    assert all(b"+" not in name for name in once)
    before, after = decode(stored, SMALL), decode(once, SMALL)
    assert plain(after) | SEEN == plain(before) | SEEN
    assert set(after.seen) <= set(before.seen)
    assert set(before.seen) == set(after.seen) | set(before.seen[after.seen_before.holds(before.seen)])
    assert compact(once, SMALL) == ({}, [], {})


@settings(deadline=None, max_examples=200)
@given(event_lists, st.randoms(use_true_random=False))
def test_seen_posts_within_the_limit_are_kept_and_no_other_post_is_seen_by_id(
    events: list[EngagementEvent | GraphEvent], random: Any
) -> None:
    limits = replace(SMALL, positions=1, seen=1)
    stored: Fields = {}
    for number, event in enumerate(events + events[::2]):
        stored |= {name + b"-%d" % number: value for name, value in tails_of([event]).items()}
        if random.random() < 0.5:
            stored = compacted(stored, limits)
    state, seen = decode(stored, limits), np.array(sorted(model_of_seen(events)), np.int64)
    assert set(state.seen) <= set(seen)
    assert set(seen) <= set(state.seen) | set(seen[state.seen_before.holds(seen)])


@settings(deadline=None, max_examples=100)
@given(event_lists, st.integers(1, 5))
def test_joined_tails_are_read_as_those_that_they_replace(
    events: list[EngagementEvent | GraphEvent], each: int
) -> None:
    stored = tails_of(events, each=each)
    joined, replaced = join(stored)
    assert plain(decode(joined)) == plain(decode(stored))
    assert sorted(replaced) == sorted(stored)
    assert join(joined) == (joined, [])


def test_undos_are_kept_up_to_a_limit() -> None:
    events = [edge(Unfollow, n, target=n + 2) for n in range(5)] + [unmute(n, f"word {n}") for n in range(5)]
    stored = compacted(tails_of([*events, edge(Follow, 9, target=99), mute(9, "on")]), SMALL)
    assert decode_entries("following", [stored[b"following"]])["target_id"].tolist() == [5, 6, 99]
    late = [edge(Follow, 0, target=6), edge(Follow, 0, target=2), mute(0, "word 4"), mute(0, "word 0")]
    state = decode(stored | tails_of(late))
    assert (state.following.tolist(), state.keywords) == ([2, 99], ("on", "word 0"))


def test_only_the_newest_edges_count_and_the_number_of_dropped_ones_is_reported() -> None:
    events = [edge(Block, n, target=n + 2) for n in range(5)]
    events += [edge(Follow, n, target=100 - n) for n in range(5)]
    others = [edge(Block, n, user=n + 2, target=1) for n in range(5)]
    muted = [mute(n, f"word {n}") for n in range(5)]
    stored = tails_of([*events, *others, *muted])
    for fields in (stored, compacted(stored, SMALL)):
        state = decode(fields, SMALL)
        assert (state.blocks.tolist(), state.blocked_by.tolist()) == ([4, 5, 6], [5, 6])
        assert state.following.tolist() == [96, 97, 98]
    assert compact(stored, SMALL).dropped == {"following": 2, "blocks": 2, "blocked_by": 3, "keywords": 2}
    assert compact(compacted(stored, SMALL) | tails_of([edge(Block, 9, target=99)]), SMALL).dropped == {"blocks": 1}


def test_a_tail_that_cannot_be_read_stays_beside_the_joined_ones() -> None:
    events = [edge(Follow, n, target=n + 2) for n in range(5)]
    cut, unknown = b"following+cut", b"following+new"
    stored = tails_of(events) | {cut: encode("following", [b"x" * 5]), unknown: b"\x09", b"keywords+1": b"\x01xx"}
    joined, replaced = join(stored)
    assert list(joined) == [b"following+joined"]
    assert sorted(replaced) == sorted(tails_of(events))
    assert decode(joined).following.tolist() == [2, 3, 4, 5, 6]
    broken = {b"following+joined": b"\x09"}
    assert join(stored | broken) == ({}, [])


def test_undos_are_kept_for_a_time() -> None:
    month = SMALL.undone_ms
    undone = [edge(Unfollow, 0, target=2), edge(Unfollow, 1, target=3), unmute(0, "x"), unmute(1, "y")]
    stored = compacted(tails_of([*undone, edge(Follow, month + 1, target=99), mute(month + 1, "on")]), SMALL)
    late = [edge(Follow, -1, target=2), edge(Follow, -1, target=3), mute(-1, "x"), mute(-1, "y")]
    state = decode(stored | tails_of(late))
    assert (state.following.tolist(), state.keywords) == ([2, 99], ("on", "x"))


def test_posts_that_leave_the_history_stay_seen_by_id_and_later_in_the_filter() -> None:
    stored: Fields = {}
    for n in range(12):
        stored = compacted(stored | tails_of([favorite(n * HOUR_MS, post_id=n + 1)]), SMALL)
    state = decode(stored, SMALL)
    assert state.positions["post_id"].tolist() == [10, 11, 12]
    assert state.seen.tolist() == [7, 8, 9, 10, 11, 12]
    assert state.seen_before.holds(np.arange(30)).nonzero()[0].tolist() == [1, 2, 3, 4, 5, 6]


def test_rejected_posts_are_kept_when_they_leave_the_history() -> None:
    def reject(at: int, post_id: int, undo: bool = False) -> Engagement:
        action = NEGATIVE_ACTIONS[post_id % len(NEGATIVE_ACTIONS)]
        return Engagement(user_id=1, post_id=post_id, author_id=7, action=action, at=T0 + at, undo=undo)

    events: list[Any] = [reject(0, 1), reject(HOUR_MS, 2), reject(2 * HOUR_MS, 3), reject(3 * HOUR_MS, 2, undo=True)]
    later = [favorite((4 + n) * HOUR_MS, post_id=50 + n) for n in range(9)]
    expected = [1, 3]
    assert decode(tails_of(events), SMALL).rejected.tolist() == expected
    assert decode(tails_of([*events, *later]), SMALL).rejected.tolist() == expected
    stored: Fields = {}
    for number, event in enumerate([*events, *later]):
        stored |= {name + b"-%d" % number: value for name, value in tails_of([event]).items()}
        stored = compacted(stored, SMALL)
    state = decode(stored, SMALL)
    assert state.rejected.tolist() == expected
    assert not {*state.positions["post_id"]} & {1, 2, 3}
    assert compact(stored, SMALL) == ({}, [], {})


def test_only_kinds_with_tails_are_written_again() -> None:
    stored = compacted(tails_of([edge(Follow, 1), impression(1)]))
    assert set(stored) == {b"following", b"history"}
    bases, tails, _ = compact(stored | {b"following+9": encode("following", [])})
    assert (set(bases), tails) == ({b"following"}, [b"following+9"])
