"""VideoFilter: drops videos if the request excludes them."""

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class VideoFilter(Filter):
    """Drops posts with a video, and reposts of these, if the request sets `exclude_videos`.

    Mirrors the published VideoFilter.
    """

    def enable(self, query: Query) -> bool:
        """True if the request excludes videos."""
        return bool(query.request.exclude_videos)

    def keep(self, _query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """[n] True for posts without a video."""
        return np.asarray(candidates.posts.video_ms == 0)
