"""Folding a history, against a slow and obvious model, under any order, duplication and compaction."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.ports.clock import MINUTE_MS
from thunder_ingest.events import ACTION_INDEX, ACTIONS, IMPRESSION
from thunder_ingest.users.entries import HISTORY
from thunder_ingest.users.history import (
    POSITION,
    WINDOW_MS,
    compacted,
    compiled_fold,
    positions,
    positions_of_many,
    warm_up,
)

FAVORITE, REPLY, DWELL_TIME, REPORT = (ACTION_INDEX[name] for name in ("favorite", "reply", "dwell_time", "report"))
T0 = WINDOW_MS * 5_000_000
LIMIT = 1024


class Entry(NamedTuple):
    """A raw entry, in the order of the fields of HISTORY."""

    at: int
    post_id: int = 1
    author_id: int = 7
    dwell_ms: int = 0
    action: int = FAVORITE
    undo: int = 0
    surface: int = 0


def raw(*entries: Entry) -> NDArray[Any]:
    return np.array([(T0 + entry.at, *entry[1:]) for entry in entries], HISTORY)


def kept_of(entries: NDArray[Any], limit: int) -> NDArray[Any]:
    return compacted(entries, limit).kept


def folded(*entries: Entry, limit: int = LIMIT) -> list[tuple[int, set[str], int]]:
    """Positions as post, actions and time since T0."""
    return [
        (int(p["post_id"]), {ACTIONS[i] for i in range(19) if int(p["actions"]) >> i & 1}, int(p["at"]) - T0)
        for p in positions(raw(*entries), limit)
    ]


# --- the rules, each as a sentence ----------------------------------------------------------------------------------


def test_actions_on_a_post_in_one_go_are_one_position() -> None:
    assert folded(Entry(0, action=IMPRESSION), Entry(5_000), Entry(9_000, action=REPLY)) == [
        (1, {"favorite", "reply"}, 9_000)
    ]


def test_the_gap_of_five_minutes_counts_between_entries_and_not_by_the_clock() -> None:
    last_moment = WINDOW_MS - 1
    assert len(folded(Entry(last_moment), Entry(last_moment + 1, action=REPLY))) == 1
    assert len(folded(Entry(1), Entry(1 + WINDOW_MS, action=REPLY))) == 1
    assert len(folded(Entry(1), Entry(2 + WINDOW_MS, action=REPLY))) == 2


def test_an_impression_alone_is_a_position_without_actions() -> None:
    assert folded(Entry(5, action=IMPRESSION)) == [(1, set(), 5)]


def test_positions_come_oldest_first() -> None:
    assert [post for post, _, _ in folded(Entry(9, 3), Entry(5, 2), Entry(9, 1))] == [2, 1, 3]


def test_an_undo_cancels_older_actions_and_keeps_the_impression() -> None:
    seen, liked, unliked = Entry(0, action=IMPRESSION), Entry(10), Entry(20, undo=1)
    assert folded(seen, liked, unliked) == [(1, set(), 0)]
    assert folded(liked, unliked) == []
    assert folded(liked, unliked, Entry(30)) == [(1, {"favorite"}, 30)]


def test_an_undo_takes_back_only_its_action_on_its_post() -> None:
    assert folded(Entry(10), Entry(10, action=REPLY), Entry(10, 2), Entry(20, undo=1)) == [
        (1, {"reply"}, 10),
        (2, {"favorite"}, 10),
    ]


def test_an_undo_that_comes_much_later_still_takes_back() -> None:
    assert folded(Entry(10), Entry(10 + 9 * WINDOW_MS, undo=1)) == []


def test_at_one_time_a_negative_action_stands_and_any_other_is_undone() -> None:
    for action in ACTIONS:
        done, undo = Entry(10, action=ACTION_INDEX[action]), Entry(10, action=ACTION_INDEX[action], undo=1)
        stands = [(1, {action}, 10)] if action in ("report", "not_interested", "block_author", "mute_author") else []
        assert folded(done, undo) == folded(undo, done) == stands


def test_a_position_carries_author_surface_and_the_longest_dwell() -> None:
    (position,) = positions(
        raw(Entry(0, action=IMPRESSION, surface=40), Entry(1, action=DWELL_TIME, dwell_ms=900), Entry(2)), LIMIT
    )
    assert (position["author_id"], position["surface"], position["dwell_ms"]) == (7, 40, 900)


def test_a_surface_code_of_an_earlier_version_reads_as_no_surface_and_gives_way_to_one_of_now() -> None:
    old, now = Entry(0, surface=15), Entry(1, action=REPLY, surface=16)
    assert positions(raw(old), LIMIT)["surface"].tolist() == [0]
    assert positions(raw(old, now), LIMIT)["surface"].tolist() == [16]


def test_only_the_newest_positions_are_kept() -> None:
    entries = [Entry(n * MINUTE_MS, post_id=n + 1) for n in range(9)]
    assert [post for post, _, _ in folded(*entries, limit=3)] == [7, 8, 9]


def test_no_entries_are_no_positions() -> None:
    assert positions(raw(), LIMIT).dtype == POSITION
    assert len(positions(raw(), LIMIT)) == len(kept_of(raw(), LIMIT)) == 0


def test_many_repetitions_compact_to_few_entries() -> None:
    pings = raw(*(Entry(n, action=DWELL_TIME, dwell_ms=n) for n in range(0, WINDOW_MS, 1000)))
    assert len(kept_of(pings, LIMIT)) == 2


def test_undoings_that_wait_for_nothing_are_bounded_and_those_that_are_needed_stay() -> None:
    needed = [Entry(0, action=IMPRESSION), Entry(1), Entry(2, undo=1)]
    idle = [Entry(1000 + n, post_id=n + 2, undo=1) for n in range(9)]
    kept = kept_of(raw(*needed, *idle), 3)
    assert sorted(kept[kept["undo"] == 1]["post_id"].tolist()) == [1, 8, 9, 10]


# --- the model ------------------------------------------------------------------------------------------------------


def model(entries: set[Entry]) -> list[tuple[int, ...]]:
    """The rules once more, an entry at a time."""
    undone: dict[tuple[int, int], int] = {}
    counting: dict[tuple[int, int, int], Entry] = {}
    moments: dict[int, list[int]] = {}
    for e in entries:
        if e.undo:
            undone[e.post_id, e.action] = max(e.at, undone.get((e.post_id, e.action), -1))
            continue
        moments.setdefault(e.post_id, []).append(e.at)
        key = e.post_id, (T0 + e.at) // WINDOW_MS, e.action
        counting[key] = max(counting.get(key, e), e, key=lambda e: (e.at, e.dwell_ms, e.surface, e.author_id))
    standing = [e for e in counting.values() if e.at + (e.action == REPORT) > undone.get((e.post_id, e.action), -1)]
    result = []
    for post_id, times in moments.items():
        for first, last in _goes(sorted(times)):
            inside = [e for e in standing if e.post_id == post_id and first <= e.at <= last]
            if inside:
                actions = sum(1 << action for action in {e.action for e in inside} if action != IMPRESSION)
                newest = T0 + max(e.at for e in inside)
                author, dwell = max(e.author_id for e in inside), max(e.dwell_ms for e in inside)
                surface = max(e.surface for e in inside)
                result.append((post_id, author, newest, actions, dwell, surface if surface >= 16 else 0))
    return sorted(result, key=lambda position: (position[2], position[0]))


def _goes(times: list[int]) -> list[tuple[int, int]]:
    goes = [(times[0], times[0])]
    for at in times[1:]:
        first, last = goes[-1]
        if at - last <= WINDOW_MS:
            goes[-1] = first, at
        else:
            goes.append((at, at))
    return goes


entries = st.builds(
    Entry,
    st.integers(0, 12).map(lambda n: n * 100_000) | st.integers(0, 1_000_000),
    st.integers(1, 2),
    st.integers(7, 8),
    st.integers(0, 2),
    st.sampled_from([FAVORITE, REPORT, DWELL_TIME, IMPRESSION]),
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([0, 15, 16, 17]),
).map(lambda e: e._replace(undo=0) if e.action == IMPRESSION else e)
histories = st.lists(entries, max_size=25)


@settings(deadline=None, max_examples=300)
@given(histories)
def test_positions_are_those_of_the_slow_and_obvious_model(history: list[Entry]) -> None:
    assert positions(raw(*history), LIMIT).tolist() == model(set(history))


@settings(deadline=None, max_examples=300)
@given(histories, st.randoms(use_true_random=False))
def test_compacting_at_any_time_and_repeating_entries_in_any_order_changes_nothing(
    history: list[Entry], random: Any
) -> None:
    expected = positions(raw(*history), LIMIT).tolist()
    late = history + [entry for entry in history if random.random() < 0.5]
    random.shuffle(late)
    kept = raw()
    while late:
        size = random.randint(1, 6)
        batch, late = late[:size], late[size:]
        kept = np.concatenate([kept, raw(*batch)])
        if random.random() < 0.6:
            kept = kept_of(kept, LIMIT)
    assert positions(kept, LIMIT).tolist() == expected


@settings(deadline=None, max_examples=200)
@given(st.lists(histories, max_size=4), st.integers(1, 4), st.booleans(), st.randoms(use_true_random=False))
def test_the_positions_of_many_viewers_are_those_of_each(
    of_viewers: list[list[Entry]], limit: int, passed_over: bool, random: Any
) -> None:
    pairs = [(viewer * 7, entry) for viewer, history in enumerate(of_viewers) for entry in history]
    random.shuffle(pairs)
    viewers = np.array([viewer for viewer, _ in pairs], np.int64)
    found, whose = positions_of_many(raw(*(entry for _, entry in pairs)), viewers, limit, passed_over)
    assert (np.diff(whose) >= 0).all()
    for viewer, history in enumerate(of_viewers):
        assert found[whose == viewer * 7].tolist() == positions(raw(*history), limit, passed_over).tolist()


@settings(deadline=None, max_examples=300)
@given(histories, st.integers(1, 4))
def test_compaction_keeps_the_shown_positions(history: list[Entry], limit: int) -> None:
    entries = raw(*history)
    once = kept_of(entries, limit)
    assert positions(once, limit).tolist() == positions(entries, limit).tolist() == model(set(history))[-limit:]
    assert np.array_equal(kept_of(once, limit), once)
    assert len(once) <= len(entries) + 2 * limit


@settings(deadline=None, max_examples=200)
@given(histories, st.integers(1, 3))
def test_posts_that_were_passed_over_take_no_place_where_only_actions_count(history: list[Entry], limit: int) -> None:
    entries = raw(*history)
    expected = [position for position in model(set(history)) if position[3]][-limit:]
    assert positions(entries, limit, passed_over=False).tolist() == expected
    once = compacted(entries, limit, passed_over=False).kept
    assert positions(once, limit, passed_over=False).tolist() == expected


@settings(deadline=None)
@given(histories, st.integers(1, 3))
def test_compaction_returns_the_posts_that_leave_the_history(history: list[Entry], limit: int) -> None:
    entries = raw(*history)
    kept, left, _ = compacted(entries, limit)
    done, still = entries[entries["undo"] == 0], kept[kept["undo"] == 0]
    assert not left["undo"].any()
    assert {*done["post_id"]} == {*still["post_id"]} | {*left["post_id"]}


def test_one_compiled_kernel_serves_every_history() -> None:
    warm_up()
    assert folded(Entry(at=1), Entry(at=2, undo=1), Entry(at=3, post_id=2, action=DWELL_TIME, dwell_ms=9))
    compacted(raw(Entry(at=1), Entry(at=2, post_id=5, action=IMPRESSION)), 1)
    compiled: Any = compiled_fold()
    assert len(compiled.signatures) == 1
