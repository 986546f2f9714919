"""DedupConversationFilter: keeps one post of each conversation."""

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import first_of_each
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class DedupConversationFilter(Filter):
    """Keeps the best-ranked post of each conversation; candidates come best first.

    Mirrors the published DedupConversationFilter. Its key is the smallest ancestor id, since ids grow with time there.
    Here the key is the conversation id of the app, else the post replied to, else the original post.
    """

    def keep(self, _query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True at the first post of each conversation."""
        posts = candidates.posts
        answered = np.where(posts.in_reply_to_post_id != 0, posts.in_reply_to_post_id, candidates.original_id)
        return first_of_each(np.where(posts.conversation_id != 0, posts.conversation_id, answered))
