"""InNetworkHydrator: marks posts of followed accounts."""

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.id_sets import contains
from feed_worker.candidates.query import Query
from feed_worker.framework.components import Hydrator


class InNetworkHydrator(Hydrator):
    """A candidate is in-network if the viewer follows its author, for any source; a repost counts for its poster.

    Mirrors the published InNetworkCandidateHydrator.
    """

    def hydrate(self, query: Query, candidates: Candidates) -> Candidates:
        """Set `in_network`."""
        return candidates.with_columns(in_network=contains(query.viewer.following, candidates.posts.author_id))
