"""InNetworkHydrator: whether the viewer follows the posting account."""

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Hydrator


class InNetworkHydrator(Hydrator):
    """Decided by the follow graph alone, whichever source found the post; a repost counts as its poster's."""

    def hydrate(self, query: Query, candidates: Candidates) -> Candidates:
        """Set `in_network`."""
        return candidates.with_columns(in_network=contains(query.viewer.following, candidates.posts.author_id))
