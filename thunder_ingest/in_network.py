"""The read rules of Thunder: which posts of followed authors may be candidates, decided on columns."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from thunder_ingest.events import ORIGINAL, QUOTE, REPLY, REPOST
from thunder_ingest.post_columns import PostColumns, take

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much of an author is read, and how old it may be: the published numbers.

    `originals` (quotes among them), `replies` (reposts among them) and `videos` are per author; `scan` is how many of
    an author's newest posts of such a list are looked at.
    """

    originals: int = 50
    replies: int = 30
    videos: int = 100
    scan: int = 500
    max_age_ms: int = 2 * DAY_MS
    max_results: int = 1200
    min_video_ms: int = 5_000


@dataclass(frozen=True, slots=True)
class InNetworkRead:
    """What one viewer asks for: their own id, whom they follow, posts to leave out, the oldest time, videos only."""

    viewer: int
    following: Int64[np.ndarray, " m"]
    excluded: Int64[np.ndarray, " k"]
    oldest_ms: int
    videos_only: bool = False


RowsOf = Callable[[Int64[np.ndarray, " n"]], Int64[np.ndarray, " n"]]


def select(
    stored: PostColumns, rows: Int64[np.ndarray, " n"], rows_of: RowsOf, read: InNetworkRead, limits: StoreLimits
) -> Int64[np.ndarray, " r"]:
    """The rows that may be candidates, newest first, ties by post id.

    Args:
        stored: all columns of the store; a row of -1 reads as no post.
        rows: the rows of all posts of the followed authors.
        rows_of: the rows of post ids, -1 where a post is not stored.
        read: what is asked for.
        limits: how much of each author is read.

    """
    stored = stored._replace(tokens=stored.tokens[:, :0], totals=stored.totals[:, :0])  # not looked at, so not copied
    rows = rows[stored.created_at[rows] >= read.oldest_ms]
    rows = rows[np.lexsort((-stored.post_id[rows], -stored.created_at[rows], stored.author_id[rows]))]
    posts = take(stored, rows)
    allowed = ~np.isin(posts.post_id, read.excluded)
    allowed &= ~_reposts_of_viewer(stored, posts, rows_of, read.viewer)
    allowed &= _reply_is_visible(stored, posts, rows_of, read.following)
    if read.videos_only:
        lists = [(_is_video(stored, posts, rows_of, limits.min_video_ms), limits.videos)]
    else:
        secondary = (posts.kind == REPLY) | (posts.kind == REPOST)
        lists = [(~secondary, limits.originals), (secondary, limits.replies)]
    kept = np.zeros(len(rows), bool)
    for members, limit in lists:
        at = np.flatnonzero(members)
        kept[at[_newest_per_author(posts.author_id[at], allowed[at], limits.scan, limit)]] = True
    newest_first = np.lexsort((-posts.post_id[kept], -posts.created_at[kept]))
    return rows[kept][newest_first]


def _newest_per_author(
    authors: Int64[np.ndarray, " n"], allowed: Bool[np.ndarray, " n"], scan: int, limit: int
) -> Bool[np.ndarray, " n"]:
    """Of the first `scan` entries of each author, the first `limit` that are allowed; entries come author by author."""
    starts = np.flatnonzero(np.diff(authors, prepend=-1))
    lengths = np.diff(starts, append=len(authors))
    rank = np.arange(len(authors)) - np.repeat(starts, lengths)
    eligible = allowed & (rank < scan)
    count: Int64[np.ndarray, " n"] = np.cumsum(eligible)
    count -= np.repeat(count[starts] - eligible[starts], lengths)
    return np.asarray(eligible & (count <= limit))


def _reposts_of_viewer(stored: PostColumns, posts: PostColumns, rows_of: RowsOf, viewer: int) -> Bool[np.ndarray, " n"]:
    by_viewer = posts.source_author_id == viewer
    reposts = np.flatnonzero((posts.kind == REPOST) & ~by_viewer)
    by_viewer[reposts] = stored.author_id[rows_of(posts.source_post_id[reposts])] == viewer
    return np.asarray(by_viewer & (posts.kind == REPOST))


def _reply_is_visible(
    stored: PostColumns, posts: PostColumns, rows_of: RowsOf, following: Int64[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """A reply shows if its parent is stored and is no reply or repost, or answers the root and is by someone followed.

    Where an app names no conversation, a parent that answers a stored post that is no reply answers the root.
    """
    visible = np.asarray(posts.kind != REPLY)
    replies = np.flatnonzero(~visible)
    parent = take(stored, rows_of(posts.in_reply_to_post_id[replies]))
    grandparent = take(stored, rows_of(parent.in_reply_to_post_id))
    root = np.where(posts.conversation_id[replies] != 0, posts.conversation_id[replies], parent.conversation_id)
    root = np.where((root == 0) & _begins_a_conversation(grandparent), grandparent.post_id, root)
    answers_root = (parent.kind == REPLY) & (parent.in_reply_to_post_id == root)
    visible[replies] = _begins_a_conversation(parent) | (answers_root & np.isin(parent.author_id, following))
    return visible


def _begins_a_conversation(posts: PostColumns) -> Bool[np.ndarray, " n"]:
    return np.asarray((posts.post_id != 0) & ((posts.kind == ORIGINAL) | (posts.kind == QUOTE)))


def _is_video(stored: PostColumns, posts: PostColumns, rows_of: RowsOf, min_video_ms: int) -> Bool[np.ndarray, " n"]:
    """A single video, long enough, that is no reply, or a repost of a stored one."""

    def alone(of: PostColumns) -> Bool[np.ndarray, " n"]:
        single = (of.photos == 0) & (of.video_ms >= min_video_ms)
        return np.asarray(single & (of.kind != REPLY) & (of.kind != REPOST))

    video = alone(posts)
    reposts = np.flatnonzero(posts.kind == REPOST)
    video[reposts] = alone(take(stored, rows_of(posts.source_post_id[reposts])))
    return video
