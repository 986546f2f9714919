"""AuthorSocialgraphFilter: blocks and mutes."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class AuthorSocialgraphFilter(Filter):
    """Drops posts between people of whom one blocks the other, and posts of muted authors.

    Blocks count both ways, and for the author of what is reposted or quoted as for the author; the published system
    forgets the reposted author who blocks the viewer. A muted author is not heard; others who repost or quote them are.
    Where nobody knows who wrote what is shown, and the viewer has any block, the post is not shown.
    """

    required: ClassVar[bool] = True

    def keep(self, query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """Posts that nobody involved objects to."""
        viewer, shown_author = query.viewer, candidates.related.source_author_id
        author = candidates.posts.author_id
        blocked = np.union1d(viewer.blocks, viewer.blocked_by)
        dropped = contains(blocked, author) | contains(blocked, shown_author) | contains(viewer.mutes, author)
        if len(blocked):
            dropped |= (candidates.posts.source_post_id != 0) & (shown_author == 0)
        return ~dropped
