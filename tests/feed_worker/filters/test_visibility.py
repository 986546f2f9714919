import pytest

from feed_worker.filters.visibility import CurrentVisibilityFilter, VisibilityFilter
from feed_worker.parameters import FORYOU
from tests.feed_worker.builders import hydrated, post, query, store_of, viewer
from thunder_ingest.events import Post

AUTHOR, FRIEND = 50, 60
FOLLOWER = viewer(following=[AUTHOR, FRIEND])


def visible(posts: list[Post], *of: int, follows: bool = False) -> list[int]:
    store = store_of(*posts)
    asked = query(FOLLOWER if follows else viewer())
    found = hydrated(store, asked, *of)
    before = VisibilityFilter(store).keep(asked, found)
    now = CurrentVisibilityFilter(store).keep(asked, found)
    assert before.tolist() == now.tolist()
    ids_kept: list[int] = found.posts.post_id[now].tolist()
    return ids_kept


@pytest.mark.parametrize("label", sorted(FORYOU.unsafe_labels))
def test_an_unsafe_label_hides_a_post_from_all_viewers(label: str) -> None:
    assert visible([post(1, labels=[label])], 1, follows=True) == []


@pytest.mark.parametrize("label", sorted(FORYOU.unsafe_labels_out_of_network))
def test_a_sensitive_label_hides_a_post_from_viewers_who_do_not_follow_its_author(label: str) -> None:
    assert visible([post(1, labels=[label])], 1, follows=True) == [1]
    assert visible([post(1, labels=[label])], 1, follows=False) == []


def test_other_labels_and_removed_labels_hide_no_post() -> None:
    taken_off = post(2)
    taken_off.labels = {"spam": -5}
    assert visible([post(1, labels=["satire"]), taken_off], 1, 2) == [1, 2]


@pytest.mark.parametrize("kind", ["repost", "quote"])
def test_a_label_applies_through_reposts_and_quotes(kind: str) -> None:
    shown = post(1, labels=["spam"])
    showing = post(2, FRIEND, "repost" if kind == "repost" else "quote", source_post_id=1)
    assert visible([shown, showing], 2, follows=True) == []


def test_a_sensitive_source_is_shown_to_followers_of_its_author() -> None:
    posts = [post(1, labels=["adult"]), post(2, FRIEND, "quote", source_post_id=1)]
    assert visible(posts, 2, follows=True) == [2]
    store = store_of(*posts)
    asked = query(viewer(following=[FRIEND]))
    assert not VisibilityFilter(store).keep(asked, hydrated(store, asked, 2)).any()


def test_a_label_on_the_parent_hides_the_reply() -> None:
    root, parent = post(1, labels=["gore"]), post(2, in_reply_to_post_id=1, conversation_id=1, kind="reply")
    reply = post(3, FRIEND, "reply", in_reply_to_post_id=2, conversation_id=1)
    assert visible([root, parent, reply], 3, follows=True) == []
    assert visible([post(1), parent, reply], 3, follows=True) == [3]


@pytest.mark.parametrize("relation", ["source_post_id", "in_reply_to_post_id"])
def test_a_post_that_refers_to_an_unknown_post_is_not_shown(relation: str) -> None:
    kind = "quote" if relation == "source_post_id" else "reply"
    assert visible([post(2, FRIEND, "quote" if kind == "quote" else "reply", **{relation: 1})], 2, follows=True) == []


def test_a_root_that_is_no_longer_stored_hides_no_post() -> None:
    parent = post(2, AUTHOR, "reply", in_reply_to_post_id=1, conversation_id=1)
    reply = post(3, FRIEND, "reply", in_reply_to_post_id=2, conversation_id=1)
    assert visible([parent, reply], 3, follows=True) == [3]


def test_a_post_deleted_after_retrieval_is_not_shown() -> None:
    store = store_of(post(1), post(2))
    asked = query()
    found = hydrated(store, asked, 1, 2)
    store.remove([1])
    assert CurrentVisibilityFilter(store).keep(asked, found).tolist() == [False, True]


def test_a_repost_of_a_post_deleted_after_retrieval_is_not_shown() -> None:
    store = store_of(post(1), post(2, FRIEND, "repost", source_post_id=1))
    asked = query(FOLLOWER)
    found = hydrated(store, asked, 2)
    store.remove([1])
    assert not CurrentVisibilityFilter(store).keep(asked, found).any()


def test_a_label_added_after_retrieval_counts() -> None:
    store = store_of(post(1))
    asked = query()
    found = hydrated(store, asked, 1)
    store.apply([post(1, labels=["spam"])])
    assert not CurrentVisibilityFilter(store).keep(asked, found).any()
