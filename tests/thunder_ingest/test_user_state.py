from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thunder_ingest.events import (
    ACTION_INDEX,
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
    surface_code,
)
from thunder_ingest.ids import id64
from thunder_ingest.user_entries import EDGE, HISTORY, VIEW, by_user, entries_by_user, keyword_entry, view_entry
from thunder_ingest.user_state import (
    KINDS,
    VERSION,
    StateLimits,
    UserState,
    compact,
    decode,
    encode,
    updates_of,
)

T0 = 1_700_000_000_000
DO = {Follow: "following", Block: "blocks", Mute: "mutes", Subscribe: "subscriptions"}
UNDO = {Unfollow: "following", Unblock: "blocks", Unmute: "mutes", Unsubscribe: "subscriptions"}
SMALL = StateLimits(positions=3, seen=3, served=2, undone=2)
Fields = dict[bytes, bytes]


def tails_of(events: list[EngagementEvent | GraphEvent], user: str = "1", each: int = 1) -> Fields:
    """The fields of a user's hash after some events, a tail for every few of them."""
    tails: dict[bytes, list[bytes]] = {}
    for number, event in enumerate(events):
        for update in updates_of(event):
            if update.user == user:
                tails.setdefault(f"{update.kind}+0-{number // each}".encode(), []).append(update.entry)
    return {name: encode(name.partition(b"+")[0].decode(), entries) for name, entries in tails.items()}


def compacted(stored: Fields, limits: StateLimits | None = None) -> Fields:
    bases, tails = compact(stored, limits or StateLimits())
    return {name: value for name, value in (stored | bases).items() if name not in tails}


def plain(state: UserState) -> dict[str, Any]:
    """A state as lists, to compare."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def edge(type_: Any, at: int, user: int | str = 1, target: int | str = 2) -> Any:
    return type_(user_id=user, target_id=target, at=T0 + at)


def favorite(at: int, post_id: int = 10, **fields: Any) -> Engagement:
    return Engagement(user_id=1, post_id=post_id, author_id=7, action="favorite", at=T0 + at, **fields)


def impression(at: int, post_id: int = 10, **fields: Any) -> Impression:
    return Impression(user_id=1, post_id=post_id, author_id=7, at=T0 + at, **fields)


def mute(at: int, keyword: str) -> MuteKeyword:
    return MuteKeyword(user_id=1, keyword=keyword, at=T0 + at)


def unmute(at: int, keyword: str) -> UnmuteKeyword:
    return UnmuteKeyword(user_id=1, keyword=keyword, at=T0 + at)


# --- what an event adds ---------------------------------------------------------------------------------------------


def test_an_engagement_adds_to_history_and_seen() -> None:
    event = favorite(5, post_id=10, dwell_ms=3, surface="home")
    history, seen = updates_of(event)
    assert (history.user, history.kind, seen.user, seen.kind) == ("1", "history", "1", "seen")
    (entry,) = np.frombuffer(history.entry, HISTORY)
    assert entry.tolist() == (T0 + 5, 10, 7, 3, ACTION_INDEX["favorite"], 0, surface_code("home"))
    assert np.frombuffer(seen.entry, VIEW).tolist() == [(T0 + 5, 10)]


def test_an_undo_is_no_sight_of_the_post() -> None:
    assert [update.kind for update in updates_of(favorite(5, undo=True))] == ["history"]


def test_a_block_is_written_to_both_users_under_their_published_forms() -> None:
    blocker, blocked = updates_of(edge(Block, 5, user="did:a", target="007"))
    assert (blocker.user, blocker.kind, blocked.user, blocked.kind) == ("did:a", "blocks", "7", "blocked_by")
    assert np.frombuffer(blocker.entry, EDGE).tolist() == [(T0 + 5, 7, 0)]
    assert np.frombuffer(blocked.entry, EDGE).tolist() == [(T0 + 5, id64("did:a"), 0)]
    assert [np.frombuffer(u.entry, EDGE)["undo"].item() for u in updates_of(edge(Unblock, 5))] == [1, 1]


@pytest.mark.parametrize("type_", [Follow, Mute, Subscribe, Unfollow, Unmute, Unsubscribe])
def test_other_edges_are_written_to_their_user_alone(type_: Any) -> None:
    (update,) = updates_of(edge(type_, 5))
    assert (update.user, update.kind) == ("1", (DO | UNDO)[type_])


def test_surfaces_have_small_codes_and_none_is_zero() -> None:
    assert surface_code(None) == 0
    assert {surface_code(f"surface {n}") for n in range(200)} == set(range(1, 16))


# --- decode ---------------------------------------------------------------------------------------------------------


def test_an_unknown_user_has_an_empty_state() -> None:
    state = UserState.empty()
    assert not state.is_known
    assert all(len(value) == 0 for name, value in plain(state).items() if name != "is_known")


def test_whoever_was_only_served_is_still_unknown() -> None:
    state = decode({b"served+r": encode("served", [view_entry(T0, 5)])})
    assert (state.is_known, state.served_ids.tolist(), state.served_at.tolist()) == (False, [5], [T0])
    assert decode(tails_of([impression(1)])).is_known


def test_the_state_is_what_the_events_say() -> None:
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


def test_at_one_time_the_doing_stands() -> None:
    assert decode(tails_of([edge(Block, 5), edge(Unblock, 5)])).blocks.tolist() == [2]
    assert decode(tails_of([unmute(5, "x"), mute(5, "x")])).keywords == ("x",)


def test_only_the_newest_posts_that_were_seen_and_served_are_kept() -> None:
    views = [view_entry(T0 + n, 100 - n) for n in range(5)]
    state = decode({b"seen+0": encode("seen", views), b"served+0": encode("served", views[::-1])}, SMALL)
    assert state.seen.tolist() == [96, 97, 98]
    assert (state.served_ids.tolist(), state.served_at.tolist()) == ([97, 96], [T0 + 3, T0 + 4])


def test_fields_of_kinds_that_come_later_are_passed_over_and_left_alone() -> None:
    stored = tails_of([impression(1)]) | {b"mood": b"\x07x", b"mood+1": b"\x07y", b"\xff": b""}
    assert decode(stored).seen.tolist() == [10]
    bases, tails = compact(stored)
    assert not any(name.startswith((b"mood", b"\xff")) for name in [*bases, *tails])


# --- the stored form ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_is_a_version_and_its_entries(kind: str) -> None:
    assert encode(kind, []) == bytes([VERSION])
    assert encode(kind, [b"ab", b"c"]) == bytes([VERSION]) + b"abc"
    assert plain(decode({kind.encode(): encode(kind, [])})) == plain(UserState.empty()) | {"is_known": kind != "served"}


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind of user state 'mood'; known are history"):
        encode("mood", [])


@pytest.mark.parametrize("read", [decode, compact])
@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (b"seen+1", b"\x02" + bytes(16), "version 2; this program knows 1"),
        (b"seen+1", b"", "version None; this program knows 1"),
        (b"history+1", b"\x01" + bytes(30), "multiple of element size"),
        (b"keywords+1", b"\x01" + keyword_entry(T0, "word", undo=False)[:-1], "cut off"),
        (b"keywords+1", b"\x01" + bytes(5), "cut off"),
    ],
)
def test_a_value_that_cannot_be_read_is_a_value_error(read: Any, name: bytes, value: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read({name: value})


# --- compaction -----------------------------------------------------------------------------------------------------

times = st.integers(0, 6)
small_ids = st.integers(2, 4)
graph = st.builds(edge, st.sampled_from([*DO, *UNDO]), times, target=small_ids)
keywords = st.builds(mute, times, st.sampled_from("xyß")) | st.builds(unmute, times, st.sampled_from("xyß"))
views = st.builds(impression, times.map(lambda n: n * 150_000), small_ids)
actions = st.builds(favorite, times.map(lambda n: n * 150_000), small_ids, undo=st.booleans())
event_lists = st.lists(graph | keywords | views | actions, max_size=16)


def model(events: list[EngagementEvent | GraphEvent]) -> dict[str, Any]:
    """Who is followed and so on: the last word on each target, an event at a time."""
    last: dict[tuple[str, str], tuple[int, bool]] = {}
    for event in events:
        if isinstance(event, MuteKeyword | UnmuteKeyword):
            kind, target, done = "keywords", event.keyword, isinstance(event, MuteKeyword)
        elif isinstance(event, Impression | Engagement):
            continue
        else:
            kind, target, done = (DO | UNDO)[type(event)], str(event.target_id), type(event) in DO
        key = kind, target
        last[key] = max(last.get(key, (0, False)), (event.at, done))
    kinds = [*DO.values(), "keywords"]
    return {kind: sorted(target for (k, target), (_, done) in last.items() if k == kind and done) for kind in kinds}


@settings(deadline=None)
@given(event_lists)
def test_edges_and_keywords_are_the_last_word_on_each(events: list[EngagementEvent | GraphEvent]) -> None:
    state = plain(decode(tails_of(events)))
    expected = model(events)
    assert {kind: list(map(str, state[kind])) for kind in expected} == expected
    seen = {e.post_id for e in events if isinstance(e, Impression) or (isinstance(e, Engagement) and not e.undo)}
    assert state["seen"] == sorted(seen)


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
    assert plain(decode(stored)) == expected


@settings(deadline=None, max_examples=200)
@given(event_lists, st.integers(1, 5))
def test_a_compacted_state_reads_as_before_also_where_it_forgets(
    events: list[EngagementEvent | GraphEvent], each: int
) -> None:
    stored = tails_of(events, each=each)
    once = compacted(stored, SMALL)
    assert all(b"+" not in name for name in once)
    assert plain(decode(once, SMALL)) == plain(decode(stored, SMALL))
    assert compact(once, SMALL) == ({}, [])


def test_what_was_undone_is_remembered_up_to_a_limit() -> None:
    events = [edge(Unfollow, n, target=n + 2) for n in range(5)] + [unmute(n, f"word {n}") for n in range(5)]
    stored = compacted(tails_of([*events, edge(Follow, 9, target=99), mute(9, "on")]), SMALL)
    assert np.frombuffer(stored[b"following"][1:], EDGE)["target_id"].tolist() == [5, 6, 99]
    late = [edge(Follow, 0, target=6), edge(Follow, 0, target=2), mute(0, "word 4"), mute(0, "word 0")]
    state = decode(stored | tails_of(late))
    assert (state.following.tolist(), state.keywords) == ([2, 99], ("on", "word 0"))


def test_only_kinds_with_tails_are_written_again() -> None:
    stored = compacted(tails_of([edge(Follow, 1), impression(1)]))
    bases, tails = compact(stored | {b"following+9": encode("following", [])})
    assert (set(bases), tails) == ({b"following"}, [b"following+9"])


# --- grouping a batch -----------------------------------------------------------------------------------------------

users = st.sampled_from([1, "1", 2, "did:plc:a"])
any_events: st.SearchStrategy[EngagementEvent | GraphEvent] = st.one_of(
    st.builds(
        Engagement,
        user_id=users,
        post_id=st.sampled_from([5, "5", "did:p"]),
        author_id=st.sampled_from([7, "did:plc:b"]),
        action=st.sampled_from(["favorite", "reply"]),
        at=st.integers(T0, T0 + 9),
        undo=st.sampled_from([None, True, False]),
        surface=st.sampled_from([None, "home"]),
    ),
    st.builds(Impression, user_id=users, post_id=st.just(5), author_id=st.just(7), at=st.integers(T0, T0 + 9)),
    st.builds(Block, user_id=users, target_id=st.just(3), at=st.just(T0)),
    st.builds(MuteKeyword, user_id=users, keyword=st.just("word"), at=st.just(T0)),
)


@given(st.lists(any_events, max_size=12))
def test_the_entries_of_a_batch_are_those_of_each_of_its_events(events: list[EngagementEvent | GraphEvent]) -> None:
    assert entries_by_user(events) == by_user(update for event in events for update in updates_of(event))


def test_an_action_is_an_entry_of_the_history_and_of_what_was_seen_and_an_undo_of_the_history_alone() -> None:
    history, seen = updates_of(favorite(1))
    assert (history.kind, seen.kind, seen.entry) == ("history", "seen", view_entry(T0 + 1, 10))
    assert [update.kind for update in updates_of(favorite(1, undo=True))] == ["history"]
