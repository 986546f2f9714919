"""AuthorSocialgraphFilter: applies blocks and mutes."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class AuthorSocialgraphFilter(Filter):
    """Drops posts of muted authors, and posts whose author blocks the viewer or is blocked by the viewer.

    Mirrors the published AuthorSocialgraphFilter. Beyond it, blocks in both directions and mutes apply to the authors
    of all posts that a post refers to, at any distance: what it reposts or quotes, and what these quote or answer. An
    app shows the answered post above a reply; `mutes_cover_parents` is False if mutes do not apply to it, while blocks
    always do. Fails closed: if the reposted or quoted author is unknown and the viewer has any block, the post is
    dropped.
    """

    required: ClassVar[bool] = True

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts without a block or mute between viewer and authors."""
        viewer, related = query.viewer, candidates.related
        author, shown_author, referred = candidates.posts.author_id, related.source_author_id, related.referred
        blocked = np.union1d(viewer.blocks, viewer.blocked_by)
        hidden = np.union1d(blocked, viewer.mutes)
        dropped = contains(hidden, author) | contains(hidden, shown_author)
        if len(blocked):
            dropped |= (candidates.posts.source_post_id != 0) & (shown_author == 0)
        is_muted = contains(viewer.mutes, referred.author_id)
        if not query.parameters.mutes_cover_parents:
            is_muted &= ~referred.is_above
        found = contains(blocked, referred.author_id) | is_muted
        return np.asarray(~(dropped | referred.holds(found, len(candidates))))
