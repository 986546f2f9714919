"""Point-in-time counts: comparison with a loop over the log."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.ports.clock import HOUR_MS, MINUTE_MS
from phoenix.data.impressions import Log
from phoenix.data.point_in_time import PointInTimeCounts, added_by_rows
from tests.phoenix.data.test_slates import T0, logs
from thunder_ingest.events import ACTION_INDEX, IMPRESSION, ActionName


def voices(log: Log, known: Any, action: ActionName) -> int:
    """The number of viewers with an action in some rows; for dwell, the sum of the newest dwell of each."""
    newest = dict[int, int]()
    for row in sorted(np.flatnonzero(known).tolist(), key=lambda row: (log.complete_at[row], log.at[row])):
        amount = int(log.dwell_ms[row] if action == "dwell_time" else log.actions[row, ACTION_INDEX[action]])
        if amount:
            newest[int(log.viewer_id[row])] = amount
    return sum(newest.values())


@given(log=logs, moments=st.lists(st.integers(-1, 60), min_size=1, max_size=5))
@settings(deadline=None)
def test_counts_contain_the_rows_complete_before_the_moment(log: Log, moments: list[int]) -> None:
    posts = np.arange(len(log.posts.post_id))
    at = T0 + np.array(moments)[:, np.newaxis] * MINUTE_MS
    totals = PointInTimeCounts(log).at(np.broadcast_to(posts, (len(moments), len(posts))), at)
    assert totals.shape == (len(moments), len(posts), 20)
    for row, moment in enumerate(at[:, 0]):
        for post in posts:
            known = (log.post == post) & (log.complete_at < moment)
            assert totals[row, post, IMPRESSION] == len(np.unique(log.viewer_id[known]))
            assert totals[row, post, ACTION_INDEX["click"]] == voices(log, known, "click")
            assert totals[row, post, ACTION_INDEX["dwell_time"]] == voices(log, known, "dwell_time")


@given(log=logs, moments=st.lists(st.integers(-1, 200), min_size=1, max_size=5), since=st.integers(-1, 61))
@settings(deadline=None)
def test_unrecorded_actions_are_imputed_from_recorded_ones(log: Log, moments: list[int], since: int) -> None:
    labelled_since: dict[ActionName, int] = dict.fromkeys(("click", "dwell_time"), T0 + since * MINUTE_MS)
    posts = np.arange(len(log.posts.post_id))
    at = T0 + np.array(moments)[:, np.newaxis] * MINUTE_MS
    totals = PointInTimeCounts(log, labelled_since).at(np.broadcast_to(posts, (len(moments), len(posts))), at)
    added = added_by_rows(log)
    outcomes = {action: added[:, ACTION_INDEX[action]] for action in labelled_since}
    shown = added[:, IMPRESSION]
    plain = PointInTimeCounts(log).at(np.broadcast_to(posts, (len(moments), len(posts))), at)
    others = np.setdiff1d(np.arange(20), [ACTION_INDEX[action] for action in outcomes])
    np.testing.assert_array_equal(totals[..., others], plain[..., others])
    for row, moment in enumerate(at[:, 0]):
        for action, outcome in outcomes.items():
            recorded = log.at >= labelled_since[action]
            before = recorded & (log.complete_at < moment - moment % HOUR_MS)
            share = outcome[before].sum() / max(1, shown[before].sum())
            for post in posts:
                known = (log.post == post) & (log.complete_at < moment)
                counted, seen = outcome[known & recorded].sum(), shown[known & recorded].sum()
                missing = shown[known & ~recorded].sum() * (counted + 10 * share) / (seen + 10)
                assert totals[row, post, ACTION_INDEX[action]] == pytest.approx(counted + missing, abs=0.5001)
