"""When the viewer of a query last was served or saw each post: the order of repeats."""

from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Int64

from feed_worker.candidates.query import Query


class LastTimes(NamedTuple):
    """The newest time of each post that a viewer was served or has seen, as far as it is known.

    A post that has left the viewer's history has no time: the ids of older seen posts are kept without it, and the
    Bloom filter of the oldest ones cannot even be listed. Their time is 0, so they come before all that have one. That
    is where they belong: they left the history because newer posts came. A post of the request's `seen_ids` was seen
    just now.
    """

    post_id: Int64[np.ndarray, " n"]  # sorted
    at: Int64[np.ndarray, " n"]  # epoch ms

    @classmethod
    def of(cls, query: Query) -> Self:
        """The times of the posts in the viewer's history, the served posts and the request's list."""
        viewer, asked = query.viewer, query.requested_seen_ids()
        post_ids = np.concatenate([viewer.positions["post_id"], viewer.served_ids, asked])
        now = np.full(len(asked), query.history_ms, np.int64)
        at = np.concatenate([viewer.positions["at"], viewer.served_at, now])
        order = np.lexsort((at, post_ids))
        post_ids, at = post_ids[order], at[order]
        last = np.append(np.diff(post_ids) != 0, np.ones(min(len(order), 1), np.bool_))
        return cls(post_ids[last], at[last])

    def of_posts(self, post_ids: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """The time of each post, 0 if it is unknown."""
        if not len(self.post_id):
            return np.zeros(len(post_ids), np.int64)
        places = np.minimum(np.searchsorted(self.post_id, post_ids), len(self.post_id) - 1)
        return np.where(self.post_id[places] == post_ids, self.at[places], 0)
