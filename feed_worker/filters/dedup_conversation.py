"""DedupConversationFilter: one post of a conversation."""

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import first_of_each
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class DedupConversationFilter(Filter):
    """Of several posts of a conversation the best-ranked stays; candidates come best first.

    The published key is the smallest ancestor id, as ids grow with time there. Here a conversation is what the app
    names as such, else the post replied to, else what is read.
    """

    def keep(self, _query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """First occurrences of conversations."""
        posts = candidates.posts
        answered = np.where(posts.in_reply_to_post_id != 0, posts.in_reply_to_post_id, candidates.original_id)
        return first_of_each(np.where(posts.conversation_id != 0, posts.conversation_id, answered))
