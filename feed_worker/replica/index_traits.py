"""What the index's masks go by, as the post store knows it."""

import numpy as np
from numpy.typing import NDArray

from phoenix.index.retrieval_index import Traits, VectorIndex
from thunder_ingest.posts.store import PostStore


def traits_of(store: PostStore, post_ids: NDArray[np.int64]) -> Traits:
    """The traits of posts; a post that comes after its vector is described when it comes."""
    posts = store.columns(store.rows_of(post_ids))
    return Traits(posts.author_id, posts.lang.astype(np.int64), posts.labels, posts.video_ms > 0)


def describe(index: VectorIndex, store: PostStore, post_ids: NDArray[np.int64]) -> None:
    """Tell the index of posts that changed, as far as it has them: a label may just have been put on one."""
    indexed = post_ids[index.holds(post_ids)]
    if len(indexed):
        index.describe(indexed, traits_of(store, indexed))
