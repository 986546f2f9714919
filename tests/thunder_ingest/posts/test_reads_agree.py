"""The compiled reads agree with a slow and simple reader after any operations on a store."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.thunder_ingest.posts.test_store import NONE, NOW, ids, post, stored_ids
from thunder_ingest.events import KINDS, ORIGINAL, QUOTE, REPLY, REPOST, Post
from thunder_ingest.posts import in_network
from thunder_ingest.posts.store import PostStore, StoreLimits

VIEWER = 1
LIMITS = StoreLimits(originals=3, replies=2, videos=2, scan=4, max_age_ms=8, max_results=7)


def original_of(posts: dict[int, Post], repost: Post) -> int:
    """The end of a chain of reposts, 0 for a circle."""
    original, passed = repost.source_post_id, set[int]()
    while original in posts and posts[original].kind == REPOST:
        if original in passed:
            return 0
        passed.add(original)
        original = posts[original].source_post_id
    return original


class ObviousReader:
    """The read rules, a post at a time, over nothing but a dictionary of posts."""

    def __init__(self, posts: dict[int, Post], following: set[int], excluded: set[int]) -> None:
        self.posts, self.following, self.excluded = posts, following, excluded

    def read(self, limit: int) -> list[int]:
        """Originals with quotes, and replies with reposts, each with a limit of its own."""
        first = self._newest((ORIGINAL, QUOTE), LIMITS.originals)
        second = self._newest((REPLY, REPOST), LIMITS.replies)
        return self._in_order([*first, *second])[:limit]

    def videos(self) -> list[int]:
        """The list of videos."""
        return self._in_order(self._newest(range(4), LIMITS.videos, videos=True))[: LIMITS.max_results]

    def _newest(self, kinds: Sequence[int], limit: int, *, videos: bool = False) -> Iterator[Post]:
        for author in self.following:
            theirs = [p for p in self.posts.values() if p.author_id == author and p.kind in kinds]
            theirs = [p for p in theirs if p.created_at >= NOW - LIMITS.max_age_ms and (not videos or self._video(p))]
            theirs.sort(key=lambda p: (-p.created_at, -p.post_id))
            yield from [p for p in theirs[: LIMITS.scan] if self._allowed(p)][:limit]

    def _in_order(self, posts: Any) -> list[int]:
        return [p.post_id for p in sorted(posts, key=lambda p: (-p.created_at, -p.post_id))]

    def _video(self, p: Post) -> bool:
        shown = self.posts.get(original_of(self.posts, p)) if p.kind == REPOST else p
        return (
            shown is not None
            and shown.kind in (ORIGINAL, QUOTE)
            and shown.photos == 0
            and shown.video_ms >= LIMITS.min_video_ms
        )

    def _allowed(self, p: Post) -> bool:
        if p.post_id in self.excluded:
            return False
        if p.kind == REPOST:
            original = original_of(self.posts, p)
            source = self.posts.get(original)
            named = p.source_author_id if original == p.source_post_id else 0
            return VIEWER not in (named, source.author_id if source else 0)
        return p.kind != REPLY or self._visible(p)

    def _visible(self, reply: Post) -> bool:
        parent = self.posts.get(reply.in_reply_to_post_id)
        if parent is None or parent.kind == REPOST:
            return False
        if parent.kind in (ORIGINAL, QUOTE):
            return True
        above = self.posts.get(parent.in_reply_to_post_id)
        root = reply.conversation_id or parent.conversation_id
        if not root and above is not None and above.kind in (ORIGINAL, QUOTE):
            root = above.post_id
        return root != 0 and parent.in_reply_to_post_id == root and parent.author_id in self.following


refs = st.integers(1, 20)
any_post = st.builds(
    post,
    refs,
    st.integers(1, 4),
    st.integers(-1, 10),
    st.sampled_from(KINDS),
    conversation_id=st.sampled_from([0, 0, 1, 2, 3]),
    in_reply_to_post_id=refs,
    source_post_id=refs,
    source_author_id=st.sampled_from([0, 0, 1, 2]),
    video_ms=st.sampled_from([0, 9000]),
    photos=st.sampled_from([0, 0, 1]),
    text=st.sampled_from(["", "one", "one two three four five"]),
    at=st.just(NOW),
)
steps = st.lists(
    st.tuples(st.just("apply"), st.lists(any_post, max_size=12))
    | st.tuples(st.just("remove"), st.lists(refs, max_size=4))
    | st.tuples(st.just("expire"), st.integers(-2, 4)),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("gathered_cost", [0, 10_000], ids=["gathered", "walked"])
@settings(deadline=None, max_examples=150)
@given(steps, st.sets(st.integers(1, 4)), st.sets(refs, max_size=4), st.integers(0, 9))
def test_reads_equal_an_obvious_reader_after_late_posts_edits_deletions_and_expiry(
    gathered_cost: int, steps: list[tuple[str, Any]], following: set[int], excluded: set[int], limit: int
) -> None:
    store, posts = PostStore(LIMITS), dict[int, Post]()
    for step, argument in steps:
        if step == "apply":
            store.apply(argument)
            posts |= {p.post_id: p for p in argument}
        elif step == "remove":
            store.remove(argument)
            posts = {id_: p for id_, p in posts.items() if id_ not in argument}
        else:
            store.expire(NOW + argument)
            posts = {id_: p for id_, p in posts.items() if p.created_at >= NOW + argument - LIMITS.max_age_ms}
        obvious = ObviousReader(posts, following, excluded)
        assert _read(store, following, excluded, limit, gathered_cost) == obvious.read(limit)
        videos = store.in_network(ids(*following), VIEWER, ids(*excluded), NOW, videos_only=True)
        assert stored_ids(store, videos) == obvious.videos()
        assert len(store) == len(posts)


def _read(store: PostStore, following: set[int], excluded: set[int], limit: int, gathered_cost: int) -> list[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_network, "GATHERED_COST", gathered_cost)
        return stored_ids(store, store.in_network(ids(*following), VIEWER, ids(*excluded), NOW, limit))


def test_a_walk_that_finds_little_for_long_is_given_up_for_gathering() -> None:
    """Whom the viewer follows posted much, long ago: the estimate is far too low."""
    busy = [post(n, 2, age_ms=500_000 + n) for n in range(1, 3_001)]
    others = [post(n, 3, age_ms=n) for n in range(10_000, 40_000)]
    store = PostStore()
    store.apply([*others, *busy])
    assert stored_ids(store, store.in_network(ids(2), VIEWER, NONE, NOW, limit=3)) == [1, 2, 3]


def test_a_bulk_of_posts_in_any_order_reads_as_in_order() -> None:
    rng = np.random.default_rng(7)
    posts = [post(n, n % 40 + 2, age_ms=int(rng.integers(0, 5_000))) for n in range(1, 5_001)]
    store = PostStore()
    for begin in range(0, len(posts), 700):
        store.apply(posts[begin : begin + 700])
    following = ids(*range(2, 42))
    expected = ObviousStore(posts).newest(1_200)
    assert stored_ids(store, store.in_network(following, VIEWER, NONE, NOW)) == expected


class ObviousStore:
    """Originals, at most 50 of an author."""

    def __init__(self, posts: Sequence[Post]) -> None:
        self._posts = sorted(posts, key=lambda p: (-p.created_at, -p.post_id))

    def newest(self, limit: int) -> list[int]:
        """The newest within the limits."""
        kept: dict[int, int] = {}
        found: list[int] = []
        for p in self._posts:
            kept[p.author_id] = kept.get(p.author_id, 0) + 1
            if kept[p.author_id] <= 50:
                found.append(p.post_id)
        return found[:limit]
