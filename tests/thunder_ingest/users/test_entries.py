from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.thunder_ingest.users.users import DO, T0, UNDO, edge, favorite
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
    Unsubscribe,
    surface_code,
)
from thunder_ingest.events.ids import id64
from thunder_ingest.users.entries import EDGE, HISTORY, UserEntries, by_user, entries_by_user, updates_of


def test_an_engagement_adds_to_the_history() -> None:
    (update,) = updates_of(favorite(5, post_id=10, dwell_ms=3, surface="home"))
    assert (update.user, update.kind) == ("1", "history")
    (entry,) = np.frombuffer(update.entry, HISTORY)
    assert entry.tolist() == (T0 + 5, 10, 7, 3, ACTION_INDEX["favorite"], 0, surface_code("home"))


def test_a_block_is_written_to_both_users_under_their_published_forms() -> None:
    blocker, blocked = updates_of(edge(Block, 5, user="did:a", target="007"))
    assert (blocker.user, blocker.kind, blocked.user, blocked.kind) == ("did:a", "blocks", "007", "blocked_by")
    assert np.frombuffer(blocker.entry, EDGE).tolist() == [(T0 + 5, id64("007"), 0)]
    assert np.frombuffer(blocked.entry, EDGE).tolist() == [(T0 + 5, id64("did:a"), 0)]
    assert [np.frombuffer(u.entry, EDGE)["undo"].item() for u in updates_of(edge(Unblock, 5))] == [1, 1]


@pytest.mark.parametrize("type_", [Follow, Mute, Subscribe, Unfollow, Unmute, Unsubscribe])
def test_other_edges_are_written_to_their_user_alone(type_: Any) -> None:
    (update,) = updates_of(edge(type_, 5))
    assert (update.user, update.kind) == ("1", (DO | UNDO)[type_])


def test_surfaces_have_small_codes_and_none_is_zero() -> None:
    assert surface_code(None) == surface_code("") == 0
    assert {surface_code(f"surface {n}") for n in range(3_000)} == set(range(16, 256))


def test_the_feeds_of_a_real_log_have_different_codes() -> None:
    assert len({surface_code(f"tab{number}") for number in range(15)}) == 15


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
    assert _joined(entries_by_user(events)) == _joined(
        by_user(update for event in events for update in updates_of(event))
    )


def _joined(entries: UserEntries) -> dict[str, dict[str, bytes]]:
    return {user: {kind: b"".join(each) for kind, each in kinds.items()} for user, kinds in entries.items()}
