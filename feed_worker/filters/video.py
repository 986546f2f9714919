"""VideoFilter: no videos, if the app asks for none."""

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Filter


class VideoFilter(Filter):
    """Drops posts with a video, and reposts of them, where the request excludes videos."""

    def enable(self, query: Query) -> bool:
        """Where the request says so."""
        return bool(query.request.exclude_videos)

    def keep(self, _query: Query, candidates: Candidates) -> NDArray[np.bool_]:
        """Posts without a video."""
        return np.asarray(candidates.posts.video_ms == 0)
