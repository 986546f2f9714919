"""Lookups in the post store for the posts that candidates repost, quote or answer."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Related
from thunder_ingest.events import REPOST
from thunder_ingest.posts.columns import PostColumns, PostFacts
from thunder_ingest.posts.store import PostStore

ScalarT = TypeVar("ScalarT", bound=np.generic)


def related_of(store: PostStore, posts: PostColumns) -> Related:
    """The stored facts of the sources, parents and roots of posts [n], as of now."""
    with store.lock:
        source_at, source = _facts(store, posts.source_post_id)
        parent_at, parent = _facts(store, posts.in_reply_to_post_id)
        root_at, root = _facts(store, posts.conversation_id)
    n = len(posts.post_id)
    return Related(
        source_stored=_spread(n, source_at, source.post_id != 0),
        source_author_id=np.where(
            posts.source_author_id != 0, posts.source_author_id, _spread(n, source_at, source.author_id)
        ),
        source_labels=_spread(n, source_at, source.labels),
        source_subscriber_only=_spread(n, source_at, source.subscriber_only),
        parent_stored=_spread(n, parent_at, parent.post_id != 0),
        parent_labels=_spread(n, parent_at, parent.labels),
        root_labels=_spread(n, root_at, root.labels),
    )


def with_content_of_sources(store: PostStore, posts: PostColumns) -> PostColumns:
    """The posts [n]; each repost with the tokens, photos, video and language of its source, if that is stored."""
    at = np.flatnonzero((posts.kind == REPOST) & (posts.source_post_id != 0))
    with store.lock:
        source = store.columns(store.rows_of(posts.source_post_id[at]))
    found = source.post_id != 0
    if not found.any():
        return posts
    shown: dict[str, NDArray[np.generic]] = {}
    for name in ("tokens", "photos", "video_ms", "lang"):
        column = getattr(posts, name).copy()
        column[at[found]] = getattr(source, name)[found]
        shown[name] = column
    return posts._replace(**shown)


def _facts(store: PostStore, post_ids: NDArray[np.int64]) -> tuple[NDArray[np.intp], PostFacts]:
    """The positions of ids other than 0, and the facts of these posts; zeros for a post that is not stored."""
    at = np.flatnonzero(post_ids)
    return at, store.facts(store.rows_of(post_ids[at]))


def _spread(n: int, at: NDArray[np.intp], values: NDArray[ScalarT]) -> NDArray[ScalarT]:
    spread = np.zeros(n, values.dtype)
    spread[at] = values
    return spread
