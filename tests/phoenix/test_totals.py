"""Counts as of a moment, held against a loop over the log."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix.log import Log
from phoenix.totals import Totals
from tests.phoenix.test_examples import MINUTE, T0, logs
from thunder_ingest.events import ACTION_INDEX, IMPRESSION


@given(log=logs, moments=st.lists(st.integers(-1, 60), min_size=1, max_size=5))
@settings(deadline=None)
def test_totals_count_what_was_known_before_a_moment(log: Log, moments: list[int]) -> None:
    posts = np.arange(len(log.posts.post_id))
    at = T0 + np.array(moments)[:, np.newaxis] * MINUTE
    totals = Totals(log).at(np.broadcast_to(posts, (len(moments), len(posts))), at)
    assert totals.shape == (len(moments), len(posts), 20)
    for row, moment in enumerate(at[:, 0]):
        for post in posts:
            known = (log.post == post) & (log.known_at < moment)
            assert totals[row, post, IMPRESSION] == known.sum()
            assert totals[row, post, ACTION_INDEX["click"]] == log.actions[known, ACTION_INDEX["click"]].sum()
            assert totals[row, post, ACTION_INDEX["dwell_time"]] == log.dwell_ms[known].sum()
