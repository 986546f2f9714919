"""A stand-in for the history of a viewer without one: posts by the followed accounts."""

from dataclasses import replace
from typing import Final

import numpy as np

from feed_worker.candidates.query import NO_IDS, Query
from feed_worker.sources.popular import popularity_of
from thunder_ingest.events import ACTION_INDEX, REPLY, REPOST
from thunder_ingest.posts.columns import PostColumns
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.history import POSITION

_LIKED: Final = 1 << ACTION_INDEX["favorite"]


def with_stand_in(query: Query, store: PostStore) -> Query:
    """The query as if its viewer had liked `stand_in_posts` posts; `query` stays.

    They are the newest originals and quotes of the followed accounts. Where these have none, they are popular posts,
    which an average viewer likes. Posts that no feed of the viewer may show for their author or their labels are none.
    """
    most, parameters = query.parameters.stand_in_posts, query.parameters
    posts = _shown(query, store, _written_by_followed(query, store, 2 * most))
    if not len(posts.post_id):
        with store.lock:
            popular = store.columns(store.popular(query.now_ms, most, popularity_of(parameters)))
        posts = _shown(query, store, popular)
    liked = np.zeros(len(posts.post_id), POSITION)
    liked["post_id"], liked["author_id"], liked["at"] = posts.post_id, posts.author_id, posts.created_at
    liked["actions"] = _LIKED
    return replace(query, user=replace(query.viewer, positions=liked[:most][::-1]), is_stand_in=True)


def _shown(query: Query, store: PostStore, posts: PostColumns) -> PostColumns:
    """Without posts of blocked, blocking and muted accounts and of the viewer, and without unsafe ones."""
    viewer, parameters = query.viewer, query.parameters
    hidden = np.concatenate([viewer.blocks, viewer.blocked_by, viewer.mutes, [query.user_id]])
    unsafe = np.uint64(store.label_mask(parameters.unsafe_labels | parameters.unsafe_labels_out_of_network))
    kept = ~np.isin(posts.author_id, hidden) & ((posts.labels & unsafe) == 0)
    return PostColumns(*(column[kept] for column in posts))


def _written_by_followed(query: Query, store: PostStore, limit: int) -> PostColumns:
    """Newest first, among the newest `limit` posts of any kind."""
    with store.lock:
        posts = store.columns(store.in_network(query.viewer.following, query.user_id, NO_IDS, query.now_ms, limit))
    own_words = (posts.kind != REPLY) & (posts.kind != REPOST)
    return PostColumns(*(column[own_words] for column in posts))
