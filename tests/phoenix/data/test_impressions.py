"""The log is a function of the set of events: comparison with a loop over single viewers and posts."""

import random
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix.data.impressions import JOIN_MS, Log, log_of
from thunder_ingest.events import (
    ACTION_INDEX,
    ACTIONS,
    Engagement,
    Event,
    Impression,
    PostCreated,
    PostDeleted,
    surface_code,
)
from thunder_ingest.events.text import token_hashes

T0 = 1_700_000_000_000


def shown(at: int, viewer: int = 1, post: int = 1, **more: Any) -> Impression:
    return Impression(user_id=viewer, post_id=post, author_id=post + 100, at=T0 + at, **more)


def acted(at: int, viewer: int = 1, post: int = 1, action: Any = "favorite", **more: Any) -> Engagement:
    return Engagement(user_id=viewer, post_id=post, author_id=post + 100, action=action, at=T0 + at, **more)


def rows_of(log: Log) -> list[tuple[int, int, int, int, set[str]]]:
    """Viewer, post, time, time of the last engagement and actions of each row."""
    posts = log.posts.post_id[log.post]
    actions = [{ACTIONS[index] for index in np.flatnonzero(row)} for row in log.actions]
    columns = (log.viewer_id, posts, log.at - T0, log.complete_at - T0)
    return [(*row, done) for *row, done in zip(*(column.tolist() for column in columns), actions, strict=True)]


def test_a_row_has_the_actions_of_its_viewer() -> None:
    log = log_of([shown(0), acted(10), acted(20, action="dwell_time", dwell_ms=7_000), acted(5, viewer=2), shown(3, 2)])
    assert rows_of(log) == [(1, 1, 0, 20, {"favorite", "dwell_time"}), (2, 1, 3, 5, {"favorite"})]
    assert log.dwell_ms.tolist() == [7_000.0, 0.0]


def test_an_engagement_joins_the_impression_before_it() -> None:
    assert rows_of(log_of([shown(0), shown(100), acted(99), acted(100, action="click")])) == [
        (1, 1, 0, 99, {"favorite"}),
        (1, 1, 100, 100, {"click"}),
    ]


def test_an_engagement_without_an_impression_opens_a_row() -> None:
    log = log_of([acted(0), shown(100), acted(101 + JOIN_MS, action="click")])
    assert rows_of(log) == [
        (1, 1, 0, 0, {"favorite"}),
        (1, 1, 100, 100, set()),
        (1, 1, 101 + JOIN_MS, 101 + JOIN_MS, {"click"}),
    ]


def test_an_undo_removes_older_actions() -> None:
    log = log_of(
        [
            *(shown(0), acted(5), acted(9, undo=True)),
            *(acted(9, action=action, undo=undo) for action in ("report", "click") for undo in (None, True)),
        ]
    )
    assert rows_of(log) == [(1, 1, 0, 9, {"report"})]


def test_the_surface_of_an_impression_is_kept_by_name_and_the_models_get_its_code() -> None:
    log = log_of(
        [shown(0, surface="tab6"), shown(0, post=2), acted(1, 1, 2, surface="tab6"), shown(0, 2, surface="tab1")]
    )
    assert [log.surfaces[index] for index in log.surface] == ["tab6", "", "tab1"]
    assert log.surface_codes.tolist() == [0, surface_code("tab1"), surface_code("tab6")]


def test_a_post_has_its_newest_content_and_its_earliest_time() -> None:
    posts = [
        PostCreated(post_id=5, author_id=7, at=T0 + 9, text="new words", video_ms=800),
        PostCreated(post_id=5, author_id=7, at=T0, text="old", photos=3),
    ]
    log = log_of([*posts, shown(20, post=6)])
    assert log.posts.post_id.tolist() == [5, 6]
    assert log.posts.author_id.tolist() == [7, 106]
    assert log.posts.created_at.tolist() == [T0, 0]
    assert log.posts.tokens[0, :2].tolist() == token_hashes("new words").tolist()
    assert (log.posts.video_ms[0], log.posts.photos[0]) == (800, 0)


def test_a_log_that_ends_earlier_knows_nothing_of_what_came_later() -> None:
    early = [
        PostCreated(post_id=1, author_id=7, at=T0, text="first words", video_ms=800),
        PostCreated(post_id=2, author_id=8, at=T0, kind="repost", source_post_id=1),
        *(shown(10, surface="home"), acted(20), acted(5, viewer=2, action="click")),
    ]
    late = [
        PostCreated(post_id=1, author_id=7, at=T0 + 50, text="other words", photos=2),
        PostDeleted(post_id=2, at=T0 + 50),
        PostCreated(post_id=3, author_id=9, at=T0 + 50, text="new"),
        *(acted(50, undo=True), acted(60, viewer=2), shown(70, post=9, surface="a place before home in the alphabet")),
    ]
    cut, alone = log_of([*late, *early]).before(T0 + 50), log_of(early)
    assert rows_of(cut) == rows_of(alone) == [(1, 1, 10, 20, {"favorite"}), (2, 1, 5, 5, {"click"})]
    assert cut.surfaces == alone.surfaces
    assert cut.events.tolist() == alone.events.tolist()
    assert cut.posts.post_id.tolist() == [1, 2, 3, 9]
    assert len(cut.posts.versions.post) == 0
    for mine, its in zip(cut.posts.published, alone.posts.published, strict=True):
        assert mine.tolist() == its.tolist()
    moments = np.full(2, T0 + 90)
    for mine, its in zip(cut.posts.as_of(np.arange(2), moments), alone.posts.as_of(np.arange(2), moments), strict=True):
        assert mine.tolist() == its.tolist()


def test_a_log_without_events_has_no_rows() -> None:
    assert rows_of(log_of([])) == []


events = st.lists(
    st.builds(
        lambda at, viewer, post, action, undo: (
            shown(at * 500_000, viewer, post)
            if action is None
            else acted(at * 500_000, viewer, post, action, undo=undo or None)
        ),
        st.integers(0, 12),
        st.integers(1, 2),
        st.integers(1, 2),
        st.sampled_from([None, None, "favorite", "report"]),
        st.sampled_from([False, False, True]),
    ),
    max_size=30,
)


def modelled(events: list[Event]) -> list[tuple[int, int, int, int, set[str]]]:
    rows: list[tuple[int, int, int, int, set[str]]] = []
    engagements = [each for each in events if isinstance(each, Engagement)]
    for viewer, post in sorted({(each.user_id, each.post_id) for each in events}):  # type: ignore[union-attr]
        own = [each for each in events if (each.user_id, each.post_id) == (viewer, post)]  # type: ignore[union-attr]
        taken_back = {
            id(each)
            for each in own
            if isinstance(each, Engagement)
            for undo in engagements
            if undo.undo and (undo.user_id, undo.post_id, undo.action) == (viewer, post, each.action)
            if each.at + (each.action == "report") <= undo.at
        }
        open_: list[Any] = []
        for event in sorted(own, key=lambda each: (each.at, isinstance(each, Engagement))):
            if isinstance(event, Engagement) and (event.undo or id(event) in taken_back):
                continue
            new_impression = isinstance(event, Impression) and not (open_ and rows[-1][2] == event.at - T0)
            if not open_ or new_impression or event.at - open_[-1].at > JOIN_MS:
                rows.append((viewer, post, event.at - T0, 0, set()))  # type: ignore[arg-type]
                open_ = []
            open_.append(event)
            done = rows[-1][4] | ({event.action} if isinstance(event, Engagement) else set())
            rows[-1] = (*rows[-1][:3], event.at - T0, done)
    return sorted(rows, key=lambda row: (row[0], row[2], row[1]))


@given(events, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_order_and_duplicates_of_events_do_not_matter(events: list[Event], rng: random.Random) -> None:
    expected = modelled(events)
    assert rows_of(log_of(events)) == expected
    again = [*events, *rng.sample(events, len(events) // 2)]
    rng.shuffle(again)
    assert rows_of(log_of(again)) == expected


def test_the_bits_of_actions_are_in_the_order_of_the_actions() -> None:
    log = log_of([shown(0), *(acted(1, action=action, dwell_ms=1) for action in ("report", "favorite"))])
    assert np.flatnonzero(log.actions[0]).tolist() == [ACTION_INDEX["favorite"], ACTION_INDEX["report"]]
