"""Lookups in the post store for the posts that candidates repost, quote or answer."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from feed_worker.candidates.columns import Related
from thunder_ingest.events import REPOST
from thunder_ingest.posts.columns import PostColumns
from thunder_ingest.posts.store import PostStore

CONTENT: Final = ("tokens", "photos", "video_ms", "lang", "totals")
"""The columns that a repost has from its original."""


def related_of(store: PostStore, posts: PostColumns) -> Related:
    """The stored facts of the posts that posts [n] refer to, as of now."""
    with store.lock:
        source_author_id = posts.source_author_id.copy()
        at = np.flatnonzero(posts.source_post_id)
        source = store.facts(store.rows_of(posts.source_post_id[at]))
        source_author_id[at] = np.where(source.author_id != 0, source.author_id, source_author_id[at])
        return Related(source_author_id, store.referred(store.rows_of(posts.post_id)))


def with_content_of_sources(store: PostStore, posts: PostColumns) -> PostColumns:
    """The posts [n]; each repost with text, photos, video, language and counts of its original, if that is stored."""
    at = np.flatnonzero((posts.kind == REPOST) & (posts.source_post_id != 0))
    with store.lock:
        source = store.columns(store.rows_of(posts.source_post_id[at]))
    found = source.post_id != 0
    if not found.any():
        return posts
    shown: dict[str, NDArray[np.generic]] = {}
    for name in CONTENT:
        column = getattr(posts, name).copy()
        column[at[found]] = getattr(source, name)[found]
        shown[name] = column
    return posts._replace(**shown)
