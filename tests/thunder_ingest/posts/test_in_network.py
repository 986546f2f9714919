"""The read rules of Thunder, each as a sentence, then all of them against a slow and obvious model."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.thunder_ingest.posts.test_reads_agree import original_of
from tests.thunder_ingest.posts.test_store import NONE, NOW, ids, post, store_of, stored_ids
from thunder_ingest.events import KINDS, ORIGINAL, QUOTE, REPLY, REPOST, Post
from thunder_ingest.posts.store import PostStore, StoreLimits

VIEWER, ALICE, BOB, STRANGER = 1, 2, 3, 4
FOLLOWING = (ALICE, BOB)


def shown(*posts: Post, following: tuple[int, ...] = FOLLOWING, **limits: Any) -> list[int]:
    """The post ids for a viewer with follows of Alice and Bob."""
    store = store_of(*posts, **limits)
    return stored_ids(store, store.in_network(ids(*following), VIEWER, NONE, NOW))


def test_posts_of_followed_authors_come_newest_first_and_nothing_else() -> None:
    assert shown(post(1, ALICE, 30), post(2, STRANGER, 20), post(3, BOB, 10), post(4, ALICE, 20)) == [3, 4, 1]


def test_posts_of_the_same_millisecond_are_ordered_by_id() -> None:
    assert shown(post(1, ALICE, 30), post(3, BOB, 30), post(2, ALICE, 30)) == [3, 2, 1]


def test_a_viewer_without_follows_gets_no_posts() -> None:
    assert shown(post(1, ALICE), following=()) == []


def test_a_post_of_the_very_millisecond_of_the_request_is_shown() -> None:
    assert shown(post(1, ALICE, age_ms=0)) == [1]


def test_a_post_from_a_clock_that_runs_ahead_is_shown() -> None:
    assert shown(post(1, ALICE, age_ms=-500)) == [1]


def test_a_single_post_is_shown_at_once_without_waiting_for_more() -> None:
    store = PostStore()
    store.apply([post(1, ALICE)])
    assert stored_ids(store, store.in_network(ids(ALICE), VIEWER, NONE, NOW)) == [1]


def test_posts_older_than_the_limit_are_not_shown_even_before_they_are_expired() -> None:
    assert shown(post(1, ALICE, age_ms=100), post(2, ALICE, age_ms=101), max_age_ms=100) == [1]


def test_an_author_fills_at_most_so_many_places_of_each_list() -> None:
    originals = [
        post(n, ALICE, age_ms=n, kind="quote" if n % 2 else "original", source_post_id=99) for n in range(1, 9)
    ]
    reposts = [post(n, ALICE, age_ms=n, kind="repost", source_post_id=99) for n in range(11, 19)]
    assert shown(*originals, *reposts, originals=3, replies=2) == [1, 2, 3, 11, 12]


def test_the_most_that_is_returned_are_the_newest_of_all_authors() -> None:
    posts = [post(n, ALICE if n % 2 else BOB, age_ms=n) for n in range(1, 9)]
    assert shown(*posts, max_results=3) == [1, 2, 3]
    store = store_of(*posts)
    assert stored_ids(store, store.in_network(ids(ALICE, BOB), VIEWER, NONE, NOW, limit=2)) == [1, 2]


def test_excluded_posts_are_left_out_but_were_scanned() -> None:
    store = store_of(*(post(n, ALICE, age_ms=n) for n in range(1, 9)), scan=4, originals=3)
    assert stored_ids(store, store.in_network(ids(ALICE), VIEWER, ids(1, 3), NOW)) == [2, 4]


def test_deleted_posts_do_not_eat_the_scan_window() -> None:
    store = store_of(*(post(n, ALICE, age_ms=n) for n in range(1, 9)), scan=4, originals=3)
    store.apply([post(n, ALICE, at=0, deleted_at=NOW) for n in (1, 2, 3, 4)])
    assert stored_ids(store, store.in_network(ids(ALICE), VIEWER, NONE, NOW)) == [5, 6, 7]


def test_reposts_of_the_viewers_own_posts_are_left_out() -> None:
    assert shown(
        post(1, VIEWER),
        post(2, ALICE, kind="repost", source_post_id=1),  # the event has no author of the source; the store has it
        post(3, ALICE, kind="repost", source_post_id=98, source_author_id=VIEWER),
        post(4, ALICE, kind="quote", source_post_id=1, source_author_id=VIEWER),
        post(5, ALICE, kind="repost", source_post_id=99),
    ) == [5, 4]


def reply(post_id: int, author_id: int, to: int, conversation_id: int = 0) -> Post:
    return post(post_id, author_id, kind="reply", in_reply_to_post_id=to, conversation_id=conversation_id)


@pytest.mark.parametrize("conversation_id", [0, 10])
def test_a_reply_to_an_original_or_a_quote_is_shown(conversation_id: int) -> None:
    quote = post(11, STRANGER, kind="quote", source_post_id=99)
    assert shown(post(10, STRANGER), reply(1, ALICE, 10, conversation_id)) == [1]
    assert shown(quote, reply(1, ALICE, 11, conversation_id)) == [1]


def test_a_reply_to_a_post_that_is_not_stored_or_is_a_repost_is_not_shown() -> None:
    repost = post(10, STRANGER, kind="repost", source_post_id=99)
    assert shown(reply(1, ALICE, 10)) == []
    assert shown(repost, reply(1, ALICE, 10)) == []


def test_a_reply_whose_parent_was_deleted_is_not_shown() -> None:
    store = store_of(post(10, STRANGER), reply(1, ALICE, 10))
    store.remove([10])
    assert stored_ids(store, store.in_network(ids(ALICE), VIEWER, NONE, NOW)) == []


@pytest.mark.parametrize("conversation_id", [0, 10])
def test_a_reply_to_a_first_reply_is_shown_if_that_is_by_someone_followed(conversation_id: int) -> None:
    root = post(10, STRANGER)
    assert shown(root, reply(11, BOB, 10, conversation_id), reply(1, ALICE, 11, conversation_id)) == [11, 1]
    assert shown(root, reply(11, STRANGER, 10, conversation_id), reply(1, ALICE, 11, conversation_id)) == []


def test_a_reply_deeper_in_a_conversation_is_not_shown() -> None:
    first, second, third = reply(11, STRANGER, 10, 10), reply(12, BOB, 11, 10), reply(13, ALICE, 12, 10)
    assert shown(post(10, STRANGER), first, second, third) == []


def test_a_reply_to_a_first_reply_needs_a_known_root_where_no_conversation_is_named() -> None:
    assert shown(reply(11, BOB, 10), reply(1, ALICE, 11)) == []
    assert shown(reply(11, BOB, 10, 10), reply(1, ALICE, 11)) == [1]


def test_videos_only_are_single_long_videos_and_reposts_of_stored_ones() -> None:
    store = store_of(
        post(1, ALICE, 1, video_ms=5000),
        post(2, ALICE, 2, video_ms=4999),
        post(3, ALICE, 3, video_ms=9000, photos=1),
        post(10, STRANGER),
        post(4, ALICE, 4, kind="reply", video_ms=9000, in_reply_to_post_id=10),
        post(5, ALICE, 5, kind="repost", source_post_id=11),
        post(11, STRANGER, video_ms=9000),
        post(6, ALICE, 6, kind="repost", source_post_id=10),
        post(7, ALICE, 7, kind="repost", source_post_id=99, video_ms=9000),
        post(8, ALICE, 8, kind="quote", source_post_id=99, video_ms=9000),
        videos=2,
    )
    assert stored_ids(store, store.in_network(ids(ALICE), VIEWER, NONE, NOW, videos_only=True)) == [1, 5]
    every = store_of(*(post(n, ALICE, n, video_ms=9000) for n in range(1, 9)), originals=2, videos=4)
    assert stored_ids(every, every.in_network(ids(ALICE), VIEWER, NONE, NOW)) == [1, 2]
    assert stored_ids(every, every.in_network(ids(ALICE), VIEWER, NONE, NOW, videos_only=True)) == [1, 2, 3, 4]


# --- all rules at once ----------------------------------------------------------------------------------------------

LIMITS = StoreLimits(originals=3, replies=2, scan=4, max_age_ms=8, max_results=9)


def model(posts: dict[int, Post], following: set[int], excluded: set[int]) -> list[int]:
    """The rules once more, a post at a time."""

    def visible(reply: Post) -> bool:
        parent = posts.get(reply.in_reply_to_post_id)
        if parent is None or parent.kind == REPOST:
            return False
        if parent.kind in (ORIGINAL, QUOTE):
            return True
        root = reply.conversation_id or parent.conversation_id
        grandparent = posts.get(parent.in_reply_to_post_id)
        if not root and grandparent is not None and grandparent.kind in (ORIGINAL, QUOTE):
            root = grandparent.post_id
        return parent.in_reply_to_post_id == root != 0 and parent.author_id in following

    def own_repost(repost: Post) -> bool:
        original = original_of(posts, repost)
        named = repost.source_author_id if original == repost.source_post_id else 0
        return VIEWER in (named, posts[original].author_id if original in posts else 0)

    results: list[Post] = []
    for author in following:
        by_author = [p for p in posts.values() if p.author_id == author and p.created_at >= NOW - LIMITS.max_age_ms]
        by_author.sort(key=lambda p: (-p.created_at, -p.post_id))
        for kinds, limit in (((ORIGINAL, QUOTE), LIMITS.originals), ((REPLY, REPOST), LIMITS.replies)):
            scanned = [p for p in by_author if p.kind in kinds][: LIMITS.scan]
            allowed = [p for p in scanned if p.post_id not in excluded]
            allowed = [p for p in allowed if p.kind != REPOST or not own_repost(p)]
            results += [p for p in allowed if p.kind != REPLY or visible(p)][:limit]
    results.sort(key=lambda p: (-p.created_at, -p.post_id))
    return [p.post_id for p in results[: LIMITS.max_results]]


refs = st.integers(1, 24)
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
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(any_post, max_size=24, unique_by=lambda p: p.post_id),
    st.sets(st.integers(2, 4)),
    st.sets(refs, max_size=4),
    st.sets(refs, max_size=4),
)
def test_in_network_reads_like_the_slow_and_obvious_model(
    posts: list[Post], following: set[int], excluded: set[int], removed: set[int]
) -> None:
    store = PostStore(LIMITS)
    store.apply(posts)
    store.remove(sorted(removed))
    rows = store.in_network(ids(*sorted(following)), VIEWER, ids(*sorted(excluded)), NOW)
    expected = model({p.post_id: p for p in posts if p.post_id not in removed}, following, excluded)
    assert stored_ids(store, rows) == expected


def test_following_may_come_in_any_order_and_twice() -> None:
    store = store_of(post(1, ALICE), post(2, BOB))
    rows = store.in_network(np.array([BOB, ALICE, BOB]), VIEWER, NONE, NOW)
    assert stored_ids(store, rows) == [2, 1]
