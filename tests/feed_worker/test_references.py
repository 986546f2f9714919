"""Safety rules through references, of one hop or more: the whole pipeline over a real store, with the real filters."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from feed_worker.filters.visibility import CurrentVisibilityFilter, VisibilityFilter
from feed_worker.parameters import FORYOU, Parameters
from feed_worker.pipeline import foryou_pipeline
from infra.ports.clock import HOUR_MS, MINUTE_MS
from phoenix.index.retrieval_index import VectorIndex
from tests.feed_worker.builders import NOW_MS, FixedModel, KnownUsers, hydrated, post, query, seen_counts, viewer
from thunder_ingest.events import AccountState, AccountStatus, Post
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.state import UserState

PLAIN = replace(FORYOU, new_author_boost=False)
A, B, C, D, E = range(101, 106)


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Compile the kernels: else the first feed would exceed its budget."""
    PostStore().warm_up()


def feed(posts: Sequence[Post], state: UserState, parameters: Parameters = PLAIN, *deleted: int) -> set[int]:
    """The ids of the posts in the viewer's feed, after posts in this order and deletions."""
    store = PostStore()
    for each in posts:
        store.apply([each])
    store.apply([Post(post_id=post_id, author_id=0, deleted_at=NOW_MS) for post_id in deleted])
    pipeline = foryou_pipeline(store, VectorIndex(), FixedModel(), KnownUsers({"1": state}))
    (result,) = pipeline.run([query(parameters=parameters)])
    assert result.status in ("ok", "empty"), result.query.degradations
    return set(result.candidates.posts.post_id.tolist())


def chain(**of_a: Any) -> list[Post]:
    """72 posts A, 71 quotes it in B, 70 reposts B in C; 73 reposts A in D, 70 reposts D in E."""
    return [
        post(A, 72, **of_a),
        post(B, 71, "quote", source_post_id=A, source_author_id=72),
        post(C, 70, "repost", source_post_id=B, source_author_id=71),
        post(D, 73, "repost", source_post_id=A, source_author_id=72),
        post(E, 70, "repost", source_post_id=D, source_author_id=73),
    ]


HIDING: dict[str, tuple[dict[str, Any], dict[str, Any], list[int]]] = {
    "block": ({}, {"blocks": [72]}, []),
    "blocked by": ({}, {"blocked_by": [72]}, []),
    "mute": ({}, {"mutes": [72]}, []),
    "label": ({"labels": ["gore"]}, {}, []),
    "label for followers": ({"labels": ["adult"]}, {}, []),
    "deletion": ({}, {}, [A]),
    "subscribers only": ({"subscriber_only": True}, {}, []),
    "muted word": ({"text": "the spoiler is here"}, {"keywords": ("spoiler",)}, []),
}


@pytest.mark.parametrize("name", HIDING)
def test_a_post_is_hidden_through_a_repost_of_a_quote_and_a_repost_of_a_repost(name: str) -> None:
    of_a, state, deleted = HIDING[name]
    assert feed(chain(**of_a), viewer(following=[70], **state), PLAIN, *deleted) == set()
    shown = feed([*chain(), post(9, 70)], viewer(following=[70]))
    assert shown & {C, E, 9} == shown
    assert 9 in shown


def test_a_repost_of_what_the_viewer_may_see_is_shown_through_a_quote_and_through_a_repost() -> None:
    posts = chain(labels=["adult"], subscriber_only=True, text="a spoiler")
    state = viewer(following=[70, 72], subscriptions=[72], blocks=[99], mutes=[98], keywords=("other",))
    assert feed([posts[0], posts[1], posts[2]], state) == {A, C}
    assert feed([posts[0], *posts[3:]], state) in ({A}, {E}), "one of a post and its reposts is shown"


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_repost_of_a_repost_shows_the_original_in_any_order_of_arrival(order: Sequence[int]) -> None:
    a, _, _, d, e = chain(text="hello", photos=2)
    store = PostStore()
    store.apply_counts(seen_counts({A: 7}))
    for place in order:
        store.apply([(a, d, e)[place]])
    pipeline = foryou_pipeline(store, VectorIndex(), FixedModel(), KnownUsers({"1": viewer(following=[70])}))
    (result,) = pipeline.run([query(parameters=PLAIN, in_network_only=True)])
    found = result.candidates
    assert found.posts.post_id.tolist() == [E]
    assert (found.original_id.tolist(), found.original_author_id.tolist()) == ([A], [72])
    assert found.posts.photos.tolist() == [2]
    assert found.posts.totals[0, -1] == 7, "a repost has the counts of its original"


def test_a_repost_of_a_repost_is_hidden_while_the_repost_between_is_unknown() -> None:
    a, _, _, _, e = chain()
    assert feed([a, e], viewer(following=[70], blocks=[5])) == {A}


def test_a_circle_of_reposts_or_quotes_is_no_endless_walk() -> None:
    reposts = [post(1, 70, "repost", source_post_id=2), post(2, 70, "repost", source_post_id=1)]
    assert feed([*reposts, post(3, 70, "repost", source_post_id=3)], viewer(following=[70])) == set()
    quotes = [post(4, 70, "quote", source_post_id=5), post(5, 71, "quote", source_post_id=4)]
    assert feed(quotes, viewer(following=[70])) == {4, 5}
    assert feed(quotes, viewer(following=[70], blocks=[71])) == set()


def test_a_block_applies_at_any_distance_and_a_walk_without_end_is_not_shown() -> None:
    def quotes(n: int) -> list[Post]:
        first = post(1, 72)
        return [first, *(post(i, 70, "quote", source_post_id=i - 1, conversation_id=i) for i in range(2, n + 1))]

    state = viewer(following=[70], blocks=[72])
    assert feed(quotes(200), state) == set()
    assert 200 in feed(quotes(200), viewer(following=[70], blocks=[5]), replace(PLAIN, top_k=500), 0)
    assert 400 not in feed(quotes(400), viewer(following=[70]), replace(PLAIN, top_k=500))


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [{"blocks": [62]}, {"blocked_by": [62]}, {"mutes": [62]}, {"keywords": ("bay",)}])
def test_a_reply_to_a_post_that_the_viewer_does_not_see_is_hidden(state: dict[str, Any]) -> None:
    posts = [post(1, 62, text="across the bay"), post(2, 61, "reply", in_reply_to_post_id=1, conversation_id=1)]
    assert feed(posts, viewer(following=[61])) & {1, 2}
    assert feed(posts, viewer(following=[61], **state)) == set()


@pytest.mark.parametrize(
    ("state", "shown"), [({"mutes": [62]}, {2}), ({"keywords": ("bay",)}, {2}), ({"blocks": [62]}, set())]
)
def test_mutes_of_the_answered_post_are_a_parameter_and_blocks_are_not(state: dict[str, Any], shown: set[int]) -> None:
    posts = [post(1, 62, text="across the bay"), post(2, 61, "reply", in_reply_to_post_id=1, conversation_id=1)]
    assert feed(posts, viewer(following=[61], **state), replace(PLAIN, mutes_cover_parents=False)) == shown


def test_a_block_applies_through_a_repost_of_a_quote_of_a_reply() -> None:
    posts = [
        post(1, 62),
        post(2, 63, "reply", in_reply_to_post_id=1, conversation_id=1),
        post(3, 64, "quote", source_post_id=2),
        post(4, 70, "repost", source_post_id=3),
    ]
    assert feed(posts, viewer(following=[70], blocks=[62])) == set()
    assert 4 in feed(posts, viewer(following=[70], blocks=[5]))
    assert feed(posts[1:], viewer(following=[70])) == set(), "a quoted reply to an unknown post cannot be checked"


def test_a_deleted_root_hides_an_answer_to_an_answer_and_an_expired_root_does_not() -> None:
    posts = [
        post(1, 62, created_at=NOW_MS - 2 * MINUTE_MS),
        post(2, 63, "reply", in_reply_to_post_id=1, conversation_id=1),
        post(3, 70, "reply", in_reply_to_post_id=2, conversation_id=1),
    ]
    state = viewer(following=[63, 70])
    assert feed(posts, state, replace(PLAIN), 1) == set()
    assert feed(posts[1:], state) == {3}


# --- accounts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["deactivated", "suspended", "deleted"])
def test_the_posts_of_an_account_that_is_not_active_leave_all_feeds_and_return_with_it(status: AccountStatus) -> None:
    store = PostStore()
    store.apply([*chain()[:3], post(9, 70)])
    pipeline = foryou_pipeline(store, VectorIndex(), FixedModel(), KnownUsers({"1": viewer(following=[70])}))

    def shown() -> set[int]:
        (result,) = pipeline.run([query(parameters=PLAIN)])
        return set(result.candidates.posts.post_id.tolist())

    assert shown() == {A, B, C, 9} - {B}
    store.accounts.apply([AccountState(user_id=72, status=status, at=NOW_MS)])
    assert shown() == {9}
    store.accounts.apply([AccountState(user_id=72, status="active", at=NOW_MS - 1)])
    assert shown() == {9}
    store.accounts.apply([AccountState(user_id=72, status="active", at=NOW_MS + 1)])
    assert shown() == {A, B, C, 9} - {B}
    store.accounts.apply([AccountState(user_id=70, status=status, at=NOW_MS)])
    assert shown() == {A, B}


def test_an_account_suspended_after_the_selection_is_not_shown() -> None:
    store = PostStore()
    store.apply([post(1, 72), post(2, 70, "quote", source_post_id=1), post(3, 70)])
    asked = query(viewer())
    found = hydrated(store, asked, 1, 2, 3)
    assert VisibilityFilter(store).keep(asked, found).all()
    store.accounts.apply([AccountState(user_id=72, status="suspended", at=NOW_MS)])
    assert CurrentVisibilityFilter(store).keep(asked, found).tolist() == [False, False, True]


@pytest.mark.parametrize(
    "named",
    [
        {"kind": "reply", "in_reply_to_post_id": A, "in_reply_to_author_id": 72},
        {"kind": "quote", "source_post_id": A, "source_author_id": 72},
    ],
)
@pytest.mark.parametrize("state", [{"blocks": [72]}, {"blocked_by": [72]}])
def test_a_block_hides_an_answer_below_a_post_that_left_the_store_by_age(
    named: dict[str, Any], state: dict[str, Any]
) -> None:
    posts = [
        post(A, 72, created_at=NOW_MS - 49 * HOUR_MS),
        post(B, 73, created_at=NOW_MS - 40 * HOUR_MS, **named),
        post(C, 61, "reply", in_reply_to_post_id=B, in_reply_to_author_id=73),
        post(D, 61),
    ]
    for each in (posts, posts[1:]):
        assert feed(each, viewer(following=[61], **state)) == {D}
