"""RelatedPostsHydrator: facts of reposted, quoted and answered posts."""

from dataclasses import replace
from typing import ClassVar

from feed_worker.candidates.columns import Candidates
from feed_worker.candidates.query import Query
from feed_worker.candidates.related_posts import related_of, with_content_of_sources
from feed_worker.framework.components import Hydrator
from thunder_ingest.posts.store import PostStore


class RelatedPostsHydrator(Hydrator):
    """Adds authors, labels and restrictions of the posts that posts refer to, and the content of reposts.

    Required: blocks and labels also apply through reposts, quotes and replies, at any distance. A repost gets its
    original's text, photos, video and counts, so that it is filtered and scored like its original. Mirrors the
    published CoreDataCandidateHydrator.
    """

    required: ClassVar[bool] = True

    def __init__(self, store: PostStore) -> None:
        self._store = store

    def hydrate(self, _query: Query, candidates: Candidates) -> Candidates:
        """Set `related`, and the content columns of reposts."""
        with self._store.lock:
            related = related_of(self._store, candidates.posts)
            posts = with_content_of_sources(self._store, candidates.posts)
        return replace(candidates.with_related(related), posts=posts)
