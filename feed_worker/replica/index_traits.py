"""The traits by which the retrieval index masks posts, read from the post store."""

import numpy as np
from numpy.typing import NDArray

from phoenix.index.retrieval_index import Traits, VectorIndex
from thunder_ingest.posts.store import PostStore


def traits_of(store: PostStore, post_ids: NDArray[np.int64]) -> Traits:
    """Author, language, labels and video of posts [n]; zeros for a post that is not stored yet.

    `describe` sets the traits of such a post once it arrives.
    """
    posts = store.columns(store.rows_of(post_ids))
    return Traits(posts.author_id, posts.lang.astype(np.int64), posts.labels, posts.video_ms > 0)


def describe(index: VectorIndex, store: PostStore, post_ids: NDArray[np.int64]) -> None:
    """Update the index's traits of changed posts [n], for instance after a label; skips posts without a vector."""
    indexed = post_ids[index.holds(post_ids)]
    if len(indexed):
        index.describe(indexed, traits_of(store, indexed))
