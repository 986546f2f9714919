"""Histories, candidates and labels of slates: comparison with a loop over the log, and no leakage of labels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.ports.clock import MINUTE_MS
from phoenix.data.impressions import Log, log_of
from phoenix.data.point_in_time import PointInTimeCounts
from phoenix.data.slates import (
    Slates,
    candidates_of,
    frozen,
    history_of,
    in_runs,
    labels_of,
    online,
    rows_between,
    shown_posts,
    without_candidates,
)
from thunder_ingest.events import ACTION_INDEX, IMPRESSION, Engagement, Event, Impression, PostCreated, PostDeleted
from thunder_ingest.events.text import token_hashes
from thunder_ingest.users.history import positions

T0 = 1_700_000_000_000
TOKENS = 4
ENDLESS = 2**62


def impression_with(at: int, viewer: int, post: int, surface: str, lag: int | None) -> list[Event]:
    ids = {"user_id": viewer, "post_id": post, "author_id": post + 100}
    shown: list[Event] = [Impression(**ids, at=T0 + at * MINUTE_MS, surface=surface)]  # type: ignore[arg-type]
    if lag is not None:
        shown.append(Engagement(**ids, at=T0 + (at + lag) * MINUTE_MS, action="click"))  # type: ignore[arg-type]
    return shown


logs = st.lists(
    st.builds(
        impression_with,
        st.integers(0, 40),
        st.integers(1, 3),
        st.integers(1, 9),
        st.sampled_from(["a", "b"]),
        st.sampled_from([None, None, 0, 1, 9]),
    ),
    max_size=40,
).map(lambda events: log_of([each for some in events for each in some]))


def slates_of(log: Log, kind: str, seed: int = 0) -> Slates:
    if kind == "frozen":
        cut = T0 + 20 * MINUTE_MS
        return frozen(log, rows_between(log, cut, T0 + 35 * MINUTE_MS), cut, 3)
    rows = rows_between(log, T0 + 3 * MINUTE_MS, T0 + 60 * MINUTE_MS)
    if kind == "online":
        return online(log, rows)
    return in_runs(log, rows, 3, 10 * MINUTE_MS, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", ["frozen", "online", "runs"])
@given(log=logs, seed=st.integers(0, 99))
@settings(deadline=None)
def test_a_history_has_the_positions_of_the_events_before_the_request(kind: str, log: Log, seed: int) -> None:
    slates = slates_of(log, kind, seed)
    history = history_of(log, slates, 5, TOKENS)
    for row, (viewer, requested_at) in enumerate(zip(slates.viewer_id, slates.requested_at, strict=True)):
        before = (log.events["viewer_id"] == viewer) & (log.events["at"] < requested_at)
        expected = positions(log.entries(np.flatnonzero(before)), 5)
        mask = history.mask[row]
        assert mask[: -len(expected) or None].sum() == 0
        for name in ("post_id", "author_id", "surface", "dwell_ms"):
            assert getattr(history, name)[row, mask].tolist() == expected[name].tolist(), name
        assert history.age_ms[row, mask].tolist() == (requested_at - expected["at"]).tolist()
        bits = expected["actions"][:, np.newaxis] >> np.arange(19, dtype=np.uint32) & 1
        assert (history.actions[row, mask] == bits).all()
        assert history.recorded[row].all()
        padding = history._replace(recorded=~history.recorded)
        assert not any(column[row, ~mask].any() for column in padding[1:-1])


@pytest.mark.parametrize("kind", ["frozen", "online", "runs"])
@given(log=logs, seed=st.integers(0, 99))
@settings(deadline=None)
def test_a_candidate_is_shown_after_the_request_to_its_viewer_on_its_surface(kind: str, log: Log, seed: int) -> None:
    slates = slates_of(log, kind, seed)
    for row in range(len(slates.viewer_id)):
        candidates = slates.rows[row, slates.mask[row]]
        assert len(candidates)
        assert (log.at[candidates] >= slates.requested_at[row]).all()
        assert (log.viewer_id[candidates] == slates.viewer_id[row]).all()
        assert (log.surface[candidates] == slates.surface[row]).all()


@pytest.mark.parametrize("kind", ["frozen", "online", "runs"])
@given(log=logs, seed=st.integers(0, 99))
@settings(deadline=None)
def test_every_row_is_a_candidate_once(kind: str, log: Log, seed: int) -> None:
    slates = slates_of(log, kind, seed)
    since, until = (20, 35) if kind == "frozen" else (3, 60)
    rows = rows_between(log, T0 + since * MINUTE_MS, T0 + until * MINUTE_MS)
    assert sorted(slates.rows[slates.mask].tolist()) == rows.tolist()


@pytest.mark.parametrize("kind", ["frozen", "online", "runs"])
@given(log=logs, seed=st.integers(0, 99))
@settings(deadline=None)
def test_candidates_have_age_and_counts_as_of_a_frozen_request_else_of_their_impression(
    kind: str, log: Log, seed: int
) -> None:
    slates = slates_of(log, kind, seed)
    log.posts.created_at[:] = T0 - MINUTE_MS
    candidates = candidates_of(log, PointInTimeCounts(log), slates, TOKENS)
    totals = candidates.totals
    for row, place in np.argwhere(slates.mask).tolist():
        known_at = slates.requested_at[row] if kind == "frozen" else log.at[slates.rows[row, place]]
        assert candidates.age_ms[row, place] == known_at - T0 + MINUTE_MS
        post_id = log.posts.post_id[log.post[slates.rows[row, place]]]
        counted = log.events[(log.events["post_id"] == post_id) & (log.events["at"] < known_at)]
        for action in (IMPRESSION, ACTION_INDEX["click"]):
            viewers = np.unique(counted["viewer_id"][counted["action"] == action])
            assert totals[row, place, action] == len(viewers)
    assert not totals[~slates.mask].any()


def test_online_slates_are_in_the_order_of_their_rows() -> None:
    log = log_of([event for at in range(9) for event in impression_with(at % 4, 1 + at % 2, at + 1, "ab"[at % 2], 0)])
    rows = rows_between(log, T0, T0 + 60 * MINUTE_MS)
    assert online(log, rows).rows[:, 0].tolist() == rows.tolist()


def test_a_run_has_one_viewer_and_at_most_size_rows() -> None:
    log = log_of([event for at in range(40) for event in impression_with(at, 1 + at % 2, at + 1, "a", None)])
    slates = in_runs(log, rows_between(log, T0, T0 + 60 * MINUTE_MS), 4, ENDLESS, np.random.default_rng(1))
    assert slates.rows.shape[1] == 4
    assert (slates.requested_at == log.at[slates.rows[:, 0]]).all()
    assert slates.mask.sum(axis=1)[1:-1].min() >= 1


def test_runs_are_cut_at_random_places() -> None:
    log = log_of([event for at in range(40) for event in impression_with(at, 1, at + 1, "a", None)])
    rows, rng = rows_between(log, T0, T0 + 60 * MINUTE_MS), np.random.default_rng(1)
    assert len({tuple(in_runs(log, rows, 8, ENDLESS, rng).rows[:, 0].tolist()) for _ in range(40)}) == 8


@given(log=logs, seed=st.integers(0, 99))
@settings(deadline=None)
def test_a_run_is_no_longer_than_its_maximum_duration(log: Log, seed: int) -> None:
    slates = slates_of(log, "runs", seed)
    assert (np.where(slates.mask, log.at[slates.rows] - slates.requested_at[:, np.newaxis], 0) < 10 * MINUTE_MS).all()


def test_a_frozen_slate_after_its_rows_is_refused() -> None:
    log = log_of(impression_with(0, 1, 1, "a", 0))
    with pytest.raises(ValueError, match="before the slate is requested"):
        frozen(log, rows_between(log, T0, T0 + 1), T0 + 1, 4)


def test_candidates_are_the_posts_of_the_rows() -> None:
    post = PostCreated(post_id=1, author_id=101, at=T0 - MINUTE_MS, text="one two", video_ms=900, photos=2)
    log = log_of([post, *impression_with(0, 5, 1, "a", 0), *impression_with(2, 5, 2, "a", None)])
    slates = in_runs(log, np.arange(2), 3, ENDLESS, np.random.default_rng(0))
    candidates = candidates_of(log, PointInTimeCounts(log), slates, TOKENS)
    asked: Any = candidates.post_id[candidates.mask].tolist()
    assert asked == [1, 2]
    first = candidates.post_id == 1
    assert (candidates.author_id[first], candidates.video_ms[first], candidates.photos[first]) == (101, 900, 2)
    assert candidates.age_ms[first] == MINUTE_MS
    assert (candidates.tokens[first] != 0).sum() == 2
    assert not any(column[~candidates.mask].any() for column in candidates if column.ndim > 1)


def test_a_post_that_a_service_has_lost_or_does_not_have_yet_has_no_words_in_a_history() -> None:
    hour = 60 * MINUTE_MS
    posts: list[Event] = [
        *(PostCreated(post_id=1, author_id=101, at=T0 + at * hour, text=text) for at, text in ((0, "old"), (5, "new"))),
        PostCreated(post_id=2, author_id=102, at=T0 + 2 * hour, text="deleted"),
        PostDeleted(post_id=2, at=T0 + 8 * hour),
        PostCreated(post_id=3, author_id=103, at=T0 + 9 * hour, text="early"),
    ]
    seen = [event for post in (1, 2, 3) for event in impression_with(0, 1, post, "a", None)]
    log = log_of([*posts, *seen], max_post_age_ms=10 * hour)

    def words(at: int) -> list[list[int]]:
        history = history_of(log, without_candidates(log, np.array([1]), T0 + at), 3, TOKENS)
        return [tokens[tokens != 0].tolist() for tokens in history.tokens[0]]

    old, new, deleted, early = (token_hashes(text).tolist() for text in ("old", "new", "deleted", "early"))
    assert words(hour) == [old, [], []]
    assert words(5 * hour) == [new, deleted, []]
    assert words(8 * hour) == [new, [], []]
    assert words(10 * hour) == [new, [], early]
    assert words(10 * hour + 1) == [[], [], early]


def test_a_repost_is_its_original_while_a_service_has_that() -> None:
    posts: list[Event] = [
        PostCreated(post_id=1, author_id=101, at=T0, text="original", video_ms=700),
        PostCreated(post_id=2, author_id=102, at=T0 + 9, kind="repost", source_post_id=1, text="of 1"),
        PostCreated(post_id=3, author_id=103, at=T0 + 9, kind="repost", source_post_id=2),
        PostCreated(post_id=4, author_id=104, at=T0 + 9, kind="repost", source_post_id=77, source_author_id=177),
    ]
    log = log_of([*posts, *impression_with(1, 1, 1, "a", 0)], max_post_age_ms=MINUTE_MS * 5)
    totals = PointInTimeCounts(log)
    for moment, has_source in ((T0 + 4 * MINUTE_MS, True), (T0 + 5 * MINUTE_MS + 1, False)):
        post = np.searchsorted(log.posts.post_id, [[2, 3, 4]])
        shown = shown_posts(log.posts, totals, post, np.full((1, 3), moment))
        assert shown.post_id.tolist() == [[1, 1, 77]]
        assert shown.author_id.tolist() == [[101, 101, 177] if has_source else [102, 103, 177]]
        assert shown.video_ms.tolist() == [[700 * has_source, 700 * has_source, 0]]
        assert shown.totals[..., IMPRESSION].tolist() == [[has_source, has_source, 0]]
        assert (shown.created_at == T0 + 9).all()


def test_an_action_in_the_history_is_unknown_before_the_start_of_its_recording() -> None:
    log = log_of(
        [*impression_with(0, 1, 1, "a", 0), *impression_with(5, 1, 2, "a", 0), *impression_with(9, 1, 3, "a", 0)]
    )
    history = history_of(log, online(log, np.array([2])), 2, TOKENS, {"click": T0 + MINUTE_MS})
    click = ACTION_INDEX["click"]
    assert history.recorded[0, :, click].tolist() == [False, True]
    assert np.delete(history.recorded, click, axis=2).all()


def test_a_label_is_known_from_the_start_of_its_recording() -> None:
    log = log_of(
        [*impression_with(0, 1, 1, "a", 0), *impression_with(5, 1, 2, "a", 0), *impression_with(5, 2, 3, "a", None)]
    )
    click, favorite = ACTION_INDEX["click"], ACTION_INDEX["favorite"]
    labels, known = labels_of(log, online(log, np.arange(3)), {"click": T0 + MINUTE_MS})
    assert known[:, 0, click].tolist() == [False, True, True]
    assert labels[:, 0, click].tolist() == [False, True, False]
    assert known[:, 0, favorite].all()
    assert not labels[:, 0, favorite].any()
