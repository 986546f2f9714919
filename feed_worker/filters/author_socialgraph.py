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

    Mirrors the published AuthorSocialgraphFilter. Blocks also apply to the author of the reposted or quoted post, in
    both directions; the published filter ignores a reposted author who blocks the viewer. Mutes apply to the author
    only: reposts and quotes of a muted author by others stay. Fails closed: if the reposted or quoted author is unknown
    and the viewer has any block, the post is dropped.
    """

    required: ClassVar[bool] = True

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts without a block or mute between viewer and authors."""
        viewer, shown_author = query.viewer, candidates.related.source_author_id
        author = candidates.posts.author_id
        blocked = np.union1d(viewer.blocks, viewer.blocked_by)
        dropped = contains(blocked, author) | contains(blocked, shown_author) | contains(viewer.mutes, author)
        if len(blocked):
            dropped |= (candidates.posts.source_post_id != 0) & (shown_author == 0)
        return ~dropped
