"""InNetworkHydrator: whether the viewer follows the posting account."""

from feed_worker.candidates import Candidates
from feed_worker.components import Hydrator
from feed_worker.membership import contains
from feed_worker.query import Query


class InNetworkHydrator(Hydrator):
    """Decided by the follow graph alone, whichever source found the post; a repost counts as its poster's."""

    def hydrate(self, query: Query, candidates: Candidates) -> Candidates:
        """Set `in_network`."""
        return candidates.with_columns(in_network=contains(query.viewer.following, candidates.posts.author_id))
