"""Point-in-time counts: comparison with the table of the engagements flow, and with a loop over the log."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from infra.ports.clock import HOUR_MS, MINUTE_MS
from phoenix.data.impressions import Log, log_of
from phoenix.data.point_in_time import PointInTimeCounts, added_by_events
from tests.phoenix.data.test_slates import T0, logs
from thunder_ingest.counts.table import CountTable, changes_of
from thunder_ingest.events import ACTION_INDEX, IMPRESSION, ActionName, Engagement, Impression


def counted(events: Sequence[Any], until_ms: int) -> dict[int, list[int]]:
    """The counts of the engagements flow from the events before a moment, by post."""
    table = CountTable(2**60)
    table.add(changes_of(event for event in events if event.at < until_ms), until_ms)
    return {record.post_id: record.totals for record in table.drain(until_ms).records}


actions = st.builds(
    lambda at, action, undo, dwell_ms, viewer, post: (
        Impression(user_id=viewer, post_id=post, author_id=1, at=T0 + at)
        if action is None
        else Engagement(
            user_id=viewer, post_id=post, author_id=1, at=T0 + at, action=action, undo=undo, dwell_ms=dwell_ms
        )
    ),
    st.integers(0, 9),
    st.sampled_from([None, None, "click", "report", "dwell_time"]),
    st.sampled_from([None, None, True]),
    st.integers(0, 3),
    st.integers(1, 2),
    st.integers(1, 2),
).map(
    lambda event: (
        (event if getattr(event, "action", "") == "dwell_time" else structs.replace(event, dwell_ms=None))
        if isinstance(event, Engagement)
        else event
    )
)


@given(st.lists(actions, max_size=40), st.lists(st.integers(-1, 11), min_size=1, max_size=4))
@settings(deadline=None)
def test_counts_are_those_of_the_flow_from_the_events_before_the_moment(events: list[Any], moments: list[int]) -> None:
    log = log_of(events)
    counts = PointInTimeCounts(log)
    for moment in moments:
        expected = counted(events, T0 + moment)
        for post, post_id in enumerate(log.posts.post_id.tolist()):
            totals = counts.at(np.array([post]), np.array([T0 + moment]))
            assert totals.tolist() == [expected.get(post_id, [0] * 20)]


@given(log=logs, moments=st.lists(st.integers(-1, 200), min_size=1, max_size=5), since=st.integers(-1, 61))
@settings(deadline=None)
def test_unrecorded_actions_are_imputed_from_recorded_ones(log: Log, moments: list[int], since: int) -> None:
    labelled_since: dict[ActionName, int] = dict.fromkeys(("click", "dwell_time"), T0 + since * MINUTE_MS)
    posts = np.arange(len(log.posts.post_id))
    at = T0 + np.array(moments)[:, np.newaxis] * MINUTE_MS
    totals = PointInTimeCounts(log, labelled_since).at(np.broadcast_to(posts, (len(moments), len(posts))), at)
    added = added_by_events(log, labelled_since)
    shown = added.changes[:, IMPRESSION]
    plain = PointInTimeCounts(log).at(np.broadcast_to(posts, (len(moments), len(posts))), at)
    others = np.setdiff1d(np.arange(20), [ACTION_INDEX[action] for action in labelled_since])
    np.testing.assert_array_equal(totals[..., others], plain[..., others])
    for row, moment in enumerate(at[:, 0]):
        for action, begin in labelled_since.items():
            outcome = added.changes[:, ACTION_INDEX[action]]
            recorded = added.at >= begin
            assert not outcome[~recorded].any()
            before = recorded & (added.at < moment - moment % HOUR_MS)
            share = outcome[before].sum() / max(1, shown[before].sum())
            for post in posts:
                known = (added.post == post) & (added.at < moment)
                done, seen = outcome[known].sum(), shown[known & recorded].sum()
                missing = shown[known & ~recorded].sum() * (done + 10 * share) / (seen + 10)
                assert totals[row, post, ACTION_INDEX[action]] == pytest.approx(done + missing, abs=0.5001)
