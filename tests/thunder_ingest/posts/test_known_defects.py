"""Known defects of the published store, each with a test of the behaviour of this store.

The test that a silent partition does not block start-up is in `tests/feed_worker/replica/test_reader.py`.
"""

from tests.thunder_ingest.posts.test_store import NONE, NOW, ids, post, store_of, stored_ids
from thunder_ingest.events import pack
from thunder_ingest.posts.store import PostStore

VIEWER, ALICE, STRANGER = 1, 2, 3


def newest(store: PostStore, *, videos_only: bool = False) -> list[int]:
    return stored_ids(store, store.in_network(ids(ALICE), VIEWER, NONE, NOW, videos_only=videos_only))


def test_a_partial_batch_is_applied_at_once() -> None:
    store = PostStore()
    store.apply_packed([pack(post(1, ALICE))])
    assert newest(store) == [1]


def test_a_post_of_the_current_second_is_kept() -> None:
    store = store_of(post(1, ALICE, age_ms=0), post(2, ALICE, age_ms=1))
    store.expire(NOW)
    assert newest(store) == [1, 2]


def test_deleted_posts_do_not_eat_an_authors_scan_window() -> None:
    store = store_of(*(post(n, ALICE, age_ms=n) for n in range(1, 9)), scan=3)
    store.remove([1, 2, 3, 4])
    assert newest(store) == [5, 6, 7]


def test_overflow_of_one_list_never_loses_a_post_that_another_still_lists() -> None:
    videos = [post(n, ALICE, age_ms=n, video_ms=9_000) for n in range(1, 6)]
    store = store_of(*videos, videos=2, originals=4)
    assert newest(store, videos_only=True) == [1, 2]
    assert newest(store) == [1, 2, 3, 4]
    assert len(store) == 5


def test_undelete_restores() -> None:
    store = store_of(post(1, ALICE, video_ms=9_000), post(2, ALICE, kind="reply", in_reply_to_post_id=1))
    store.apply([post(1, ALICE, at=0, deleted_at=NOW)])
    assert newest(store) == []  # nor is the reply shown without its parent
    store.apply([post(1, ALICE, at=NOW + 1, video_ms=9_000)])
    assert newest(store) == [2, 1]
    assert newest(store, videos_only=True) == [1]


def test_a_repost_of_a_video_is_a_video() -> None:
    repost = post(1, ALICE, kind="repost", source_post_id=9)
    store = store_of(repost)
    assert newest(store, videos_only=True) == []
    store.apply([post(9, STRANGER, video_ms=9_000)])  # late
    assert newest(store, videos_only=True) == [1]


def test_a_post_edited_or_labelled_keeps_its_place() -> None:
    store = store_of(*(post(n, ALICE, age_ms=n) for n in (1, 2, 3)))
    store.apply(
        [post(3, ALICE, age_ms=3, at=NOW, text="edited"), post(2, ALICE, age_ms=2, at=NOW, labels={"spam": NOW})]
    )
    assert newest(store) == [1, 2, 3]


def test_memory_follows_the_stored_posts_and_not_all_posts_ever_stored() -> None:
    store = store_of(max_age_ms=1_000)
    sizes = []
    for second in range(12):
        now = NOW + 1_000 * second
        store.apply([post(10_000 * second + n, n % 700 + 2, age_ms=-1_000 * second - n % 999) for n in range(1, 2_001)])
        store.expire(now)
        sizes.append(_bytes(store))
    assert len(store) <= 4_000
    assert max(sizes[6:]) == max(sizes[3:6])


def _bytes(store: PostStore) -> int:
    rows = store._rows
    tables = rows.ids.keys.nbytes + sum(table.nbytes for table in (rows.authors.entries, rows.authors.heads))
    return tables + sum(column.nbytes for column in (*rows.columns, *rows.references, *rows.timeline, *rows.arena))
