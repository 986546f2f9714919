"""ServedHistory: stores the posts of a feed as served."""

from collections.abc import Sequence

from feed_worker.candidates.ports import UserStateStore
from feed_worker.framework.components import SideEffect
from feed_worker.framework.request_run import Result


class ServedHistory(SideEffect):
    """Appends the feed's posts to the viewer's state, so that the next feed differs.

    Idempotent for one request id. Mirrors the published side effect that updates the served history.
    """

    def __init__(self, users: UserStateStore) -> None:
        self._users = users

    def run(self, results: Sequence[Result]) -> None:
        """Write the post ids of each result, under the arrival of its request."""
        for result in results:
            query, post_ids = result.query, result.candidates.posts.post_id.tolist()
            self._users.add_served(query.user_form, post_ids, query.history_ms, query.request.request_id)
