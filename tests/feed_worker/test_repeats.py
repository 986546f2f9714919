"""Repeats: a feed is never empty while something may be shown, and says what is no new post."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feed_worker.candidates.query import AMPLE, Query
from feed_worker.candidates.repeats import LastTimes
from feed_worker.documents.build import explanation_of, feed_of, served_of
from feed_worker.documents.feed import Feed, FeedItem
from feed_worker.filters.repeat import RepeatFilter
from feed_worker.framework.budgets import STAGE_BUDGETS_MS
from feed_worker.framework.pipeline import Pipeline
from feed_worker.framework.request_run import Result
from feed_worker.hydrators.repeat import RepeatHydrator
from feed_worker.parameters import CLASSIC, FORYOU, PRESETS, X_2026_08_12, Parameters
from feed_worker.pipeline import foryou_pipeline
from feed_worker.serving.feed_store import Answer, FeedStore
from feed_worker.sources.repeat import RepeatSource
from infra.ports.clock import MINUTE_MS
from phoenix.index.retrieval_index import VectorIndex
from tests.feed_worker.builders import (
    NOW_MS,
    VIEWER,
    FixedModel,
    KnownUsers,
    candidates_in,
    ids,
    post,
    query,
    store_of,
    viewer,
)
from tests.feed_worker.test_pipeline import index_of, vectors_of
from thunder_ingest.events import ActionName, Engagement, Impression
from thunder_ingest.posts.store import PostStore
from thunder_ingest.users.entries import entries_by_user
from thunder_ingest.users.history import POSITION
from thunder_ingest.users.redis_form import UserStates
from thunder_ingest.users.register import declare_whole
from thunder_ingest.users.seen_filter import FilterSize, SeenFilter
from thunder_ingest.users.state import StateLimits, UserState

FRIEND, STRANGER, ACCOUNTS = 60, 70, 3
PAGE = 20


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    PostStore().warm_up()


def pipeline_of(store: PostStore, state: UserState) -> Pipeline:
    return foryou_pipeline(store, VectorIndex(), FixedModel(), KnownUsers({str(VIEWER): state}))


def answer(store: PostStore, state: UserState, **request: Any) -> Feed:
    (result,) = pipeline_of(store, state).run([query(**request)])
    return feed_of(result, store, NOW_MS, ["r"])


def marks(feed: Feed) -> dict[int, str | None]:
    return {int(item.post_id): item.repeat for item in feed.items}


def seen_at(times: dict[int, int], **state: Any) -> UserState:
    """A viewer who has seen posts at these minutes before now."""
    positions = np.zeros(len(times), POSITION)
    positions["post_id"], positions["author_id"] = [*times], 50
    positions["at"] = [NOW_MS - ago * MINUTE_MS for ago in times.values()]
    return viewer(seen=times, positions=positions, **state)


# --- a small app ----------------------------------------------------------------------------------------------------


def small_app() -> list[Any]:
    """50 posts of 3 accounts."""
    return [post(i, 50 + i % ACCOUNTS, created_at=NOW_MS - i * MINUTE_MS) for i in range(1, 51)]


class Reader:
    """A reader of a small app, and the model of it: when each post was last served and last seen."""

    def __init__(self, client: redis.Redis, parameters: Parameters) -> None:
        declare_whole(client)
        self.users, self.feeds = UserStates(client), FeedStore(client, 60)
        self.store, self.parameters = store_of(*small_app()), parameters
        index = index_of(vectors_of(range(1, 51)))
        unlimited = dict.fromkeys(STAGE_BUDGETS_MS, math.inf)  # a compilation may take longer than any budget
        self.pipeline = foryou_pipeline(
            self.store, index, FixedModel(), self.users, pages=self.feeds, budgets_ms=unlimited
        )
        self.served, self.seen = dict[str, int](), dict[str, int]()

    def refresh(self, number: int, at: int, **request: Any) -> Feed:
        asked = query(request_id=f"r{number}", at=at, now_ms=at, size=PAGE, parameters=self.parameters, **request)
        asked.deadline_at = at + MINUTE_MS
        (result,) = self.pipeline.run([asked])
        feed = feed_of(result, self.store, at, [f"r{number}"])
        self.feeds.write([Answer(feed, None, [served_of(result, feed, feed.request_id)])])
        return feed

    def scroll(self, first: int, at: int) -> list[Feed]:
        """A feed and all its pages, the last of which is empty."""
        pages = [self.refresh(first, at)]
        while pages[-1].items:
            number = first + len(pages)
            pages.append(self.refresh(number, at + len(pages), after=pages[-1].request_id))
        return pages

    def look(self, items: Sequence[FeedItem], at: int) -> None:
        """Publish impressions of items."""
        seen = [Impression(user_id=VIEWER, post_id=int(each.post_id), author_id=50, at=at) for each in items]
        self.users.write(entries_by_user(seen), f"0-{at}")
        self.seen |= {item.post_id: at for item in items}

    def mark(self, post_id: str, at: int) -> tuple[str | None, int]:
        """The mark that a post has in a feed, and the time that orders it."""
        last = max(self.served.get(post_id, 0), self.seen.get(post_id, 0))
        if post_id in self.seen:
            return "seen", last
        recent = sorted(self.served.values())[-self.parameters.served_max :]
        is_recent = at - self.served.get(post_id, 0) <= self.parameters.served_window_ms and last in recent
        return ("served", last) if is_recent else (None, 0)


@pytest.mark.parametrize("minutes", [1, 7, 15])
@pytest.mark.parametrize("looks", ["never", "at all", "at some"])
def test_a_small_app_is_never_empty_and_its_repeats_are_marked_and_come_last_oldest_first(
    valkey: redis.Redis, looks: str, minutes: int
) -> None:
    valkey.flushall()
    reader, draw = Reader(valkey, FORYOU), random.Random(minutes)
    for number in range(20):
        at = NOW_MS + number * minutes * MINUTE_MS
        feed = reader.refresh(number, at)
        expected = [reader.mark(item.post_id, at) for item in feed.items]
        assert feed.status == "ok"
        assert [item.repeat for item in feed.items] == [mark for mark, _ in expected]
        order = [(("", "served", "seen").index(mark or ""), when) for mark, when in expected]
        assert order == sorted(order), "new posts, then served ones, then seen ones, oldest first"
        new = {str(i) for i in range(1, 51) if reader.mark(str(i), at)[0] is None}
        assert len(feed.items) == PAGE or (None in dict(expected) and len(new) >= FORYOU.repeat_below)
        assert len([each for each in feed.items if each.repeat is None]) == min(len(new), PAGE)
        reader.served |= {item.post_id: at for item in feed.items}
        some = {"never": [], "at all": feed.items, "at some": draw.sample(feed.items, 3)}[looks]
        reader.look(some, at + 1_000)


@pytest.mark.parametrize("preset", ["classic", "x-2026-08-12"])
def test_presets_of_the_published_system_repeat_nothing(valkey: redis.Redis, preset: str) -> None:
    valkey.flushall()
    reader = Reader(valkey, PRESETS[preset])
    feeds = [reader.refresh(number, NOW_MS + number) for number in range(30)]
    items = [item.post_id for feed in feeds for item in feed.items]
    assert len(items) == len(set(items)) > 40  # re-ranking drops some
    assert feeds[-1].status == "empty"
    assert not any(item.repeat for feed in feeds for item in feed.items)


@pytest.mark.parametrize("looks", [False, True])
def test_pages_show_each_post_once_also_where_all_of_them_are_repeats(valkey: redis.Redis, looks: bool) -> None:
    valkey.flushall()
    reader = Reader(valkey, FORYOU)
    for visit in range(3):
        at = NOW_MS + visit * MINUTE_MS
        pages = reader.scroll(100 * visit, at)
        items = [item for page in pages for item in page.items]
        assert len({item.post_id for item in items}) == len(items) == 50
        assert {item.repeat for item in items} == ({None} if visit == 0 else {"seen"} if looks else {"served"})
        assert pages[-1].status == "empty"
        assert "a page repeats no earlier one" in pages[-1].degradations[-1]
        reader.look(items if looks else [], at + 1_000)


def test_a_page_after_an_unknown_one_repeats_nothing(valkey: redis.Redis) -> None:
    valkey.flushall()
    reader = Reader(valkey, FORYOU)
    reader.scroll(0, NOW_MS)
    page = reader.refresh(99, NOW_MS + 99, after="long ago")
    assert (page.status, page.items) == ("empty", [])
    assert page.degradations == [
        "nothing to show: no source found a post; the sources left out posts: 50 served; a page repeats no earlier one"
    ]


def test_a_page_repeats_nothing_once_posts_of_earlier_pages_may_have_left_the_served_ones(valkey: redis.Redis) -> None:
    valkey.flushall()
    reader = Reader(valkey, FORYOU)
    first = reader.refresh(0, NOW_MS)
    assert first.items
    reader.users.add_served(str(VIEWER), range(1_000, 1_000 + StateLimits().served), NOW_MS + 1, "pages")
    seen = [Impression(user_id=VIEWER, post_id=each, author_id=50, at=1) for each in range(1, 51)]
    reader.users.write(entries_by_user(seen), "0")
    page = reader.refresh(1, NOW_MS + 2, after=first.request_id)
    assert (page.status, page.items) == ("empty", [])


@pytest.mark.parametrize(
    ("request_", "parameters", "withdraws"),
    [
        ({}, FORYOU, True),
        ({"in_network_only": True}, FORYOU, False),
        ({"exclude_videos": True}, FORYOU, False),
        ({"langs": ["en"]}, FORYOU, False),
        ({"after": "r0"}, FORYOU, False),
        ({}, CLASSIC, False),
    ],
)
def test_an_empty_feed_withdraws_an_older_one_if_nothing_may_be_shown(
    request_: dict[str, Any], parameters: Parameters, withdraws: bool
) -> None:
    assert query(parameters=parameters, **request_).is_unrestricted is withdraws


def test_what_the_app_says_it_has_shown_comes_back_last() -> None:
    store = store_of(*(post(i, 50 + i) for i in range(1, 7)))
    state = seen_at({1: 30, 2: 20}, served=[(3, NOW_MS - MINUTE_MS)])
    assert [*marks(answer(store, state, seen_ids=[4, 5])).items()][:4] == [
        (6, None),
        (3, "served"),
        (1, "seen"),
        (2, "seen"),
    ]
    assert {post_id for post_id, mark in marks(answer(store, state, seen_ids=[4, 5])).items() if mark} == {
        1,
        2,
        3,
        4,
        5,
    }


# --- what may come back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["report", "not_interested", "block_author", "mute_author"])
def test_a_post_with_a_negative_action_never_comes_back_also_when_it_has_left_the_history(
    valkey: redis.Redis, action: ActionName
) -> None:
    valkey.flushall()
    reader = Reader(valkey, FORYOU)
    bad = Engagement(user_id=VIEWER, post_id=7, author_id=51, action=action, at=NOW_MS - MINUTE_MS)
    reader.users.write(entries_by_user([bad]), "bad")
    visits = [
        Impression(user_id=VIEWER, post_id=1_000 + number, author_id=50, at=NOW_MS + number) for number in range(1_200)
    ]
    for first in range(0, len(visits), 100):
        reader.users.write(entries_by_user(visits[first : first + 100]), f"many-{first}")
    (state,) = reader.users.read([str(VIEWER)])
    assert 7 not in state.positions["post_id"]
    found = {item.post_id for number in range(20) for item in reader.refresh(number, NOW_MS + 2_000 + number).items}
    assert found == {str(i) for i in range(1, 51) if i != 7}


def test_a_repeat_is_what_another_source_would_find() -> None:
    store = store_of(
        post(1, FRIEND),
        post(2, STRANGER),
        post(3, FRIEND, "repost", source_post_id=2),
        post(4, STRANGER, "repost", source_post_id=1),
        post(5, STRANGER, "reply", in_reply_to_post_id=2, in_reply_to_author_id=STRANGER, conversation_id=2),
        post(6, FRIEND, "reply", in_reply_to_post_id=1, in_reply_to_author_id=FRIEND, conversation_id=1),
        post(7, FRIEND, "reply", in_reply_to_post_id=5, in_reply_to_author_id=STRANGER, conversation_id=2),
    )
    asked = query(viewer(following=[FRIEND], seen=range(1, 8)))
    (fetched,) = RepeatSource(store).fetch([asked])
    assert sorted(fetched.candidates.posts.post_id.tolist()) == [1, 2, 3, 6]
    asked.request.in_network_only = True
    (fetched,) = RepeatSource(store).fetch([asked])
    assert sorted(fetched.candidates.posts.post_id.tolist()) == [1, 3, 6]


def test_the_source_gives_served_posts_before_seen_ones_oldest_first_and_at_most_its_limit() -> None:
    store = store_of(*(post(i, FRIEND) for i in range(1, 9)))
    state = seen_at({1: 5, 2: 9, 3: 7}, served=[(4, NOW_MS - 1), (5, NOW_MS - 3)])
    asked = query(state, parameters=replace(FORYOU, repeat_max=4))
    asked.served = ids(4, 5)
    (fetched,) = RepeatSource(store).fetch([asked])
    assert fetched.candidates.posts.post_id.tolist() == [5, 4, 2, 3]


def test_a_seen_post_without_a_known_time_comes_before_those_with_one() -> None:
    long_ago = SeenFilter().with_posts(ids(1), FilterSize())
    store = store_of(*(post(i, 50 + i) for i in range(1, 4)))
    state = seen_at({2: 90}, seen_before=long_ago)
    state.seen = ids(2, 3)
    feed = answer(store, state)
    assert [*marks(feed).values()] == ["seen"] * 3
    assert int(feed.items[-1].post_id) == 2
    assert LastTimes.of(query(state)).of_posts(ids(1, 2, 3)).tolist() == [0, NOW_MS - 90 * MINUTE_MS, 0]


@pytest.mark.parametrize("new", range(1, 6))
def test_a_feed_with_enough_new_posts_is_not_filled_up(new: int) -> None:
    store = store_of(*(post(i, 50 + i) for i in range(1, new + 4)))
    expected = 0 if new >= FORYOU.repeat_below else 3
    feed = answer(store, viewer(seen=range(1, 4)))
    assert [*marks(feed).values()] == [None] * new + ["seen"] * expected
    small = answer(store, viewer(seen=range(1, 4)), size=1)
    assert [*marks(small).values()] == [None]


@pytest.mark.parametrize("restriction", [{"langs": ["en"]}, {"exclude_videos": True}])
def test_where_many_candidates_are_found_none_comes_back_unless_the_request_drops_them_all(
    restriction: dict[str, Any],
) -> None:
    french = [post(i, 50 + i % 40, lang="fr", video_ms=20_000) for i in range(10, 10 + AMPLE)]
    store = store_of(post(1, 50, lang="en"), post(2, 51, lang="fr", video_ms=20_000), *french)
    state = viewer(seen=[1, 2])
    assert not query(state).may_repeat(AMPLE)
    assert set(marks(answer(store, state)).values()) == {None}
    assert marks(answer(store, state, **restriction)) == {1: "seen"}


def test_without_the_hydrator_nothing_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_self: RepeatHydrator, _query: Query, _candidates: Any) -> Any:
        raise RuntimeError("boom")

    monkeypatch.setattr(RepeatHydrator, "hydrate", failing)
    feed = answer(store_of(post(1), post(2, 51)), viewer(seen=[1]))
    assert (marks(feed), feed.status) == ({2: None}, "degraded")


def test_repeats_change_nothing_about_the_order_of_new_posts() -> None:
    store = store_of(*(post(i, 50 + i % 7) for i in range(1, 40)))
    new = [1, 5, 9, 30, 31]
    known = [i for i in range(1, 40) if i not in new]
    filling = replace(FORYOU, repeat_below=10)
    for parameters in (filling, replace(filling, dpp_pool=150), replace(filling, new_author_slot=2)):
        alone = answer(store, viewer(seen=known), parameters=replace(parameters, repeat_below=0))
        filled = answer(store, viewer(seen=known), parameters=parameters)
        assert [item.post_id for item in filled.items[: len(new)]] == [item.post_id for item in alone.items]
        assert [item.score for item in filled.items[: len(new)]] == [item.score for item in alone.items]
        assert len(filled.items) == 35


def test_the_last_filter_keeps_new_posts_and_the_repeats_that_the_feed_needs() -> None:
    store = store_of(*(post(i, 50 + i) for i in range(1, 7)))
    asked = query(parameters=replace(FORYOU, top_k=3, result_size=3), size=3)
    found = candidates_in(store, *range(1, 7)).with_columns(
        repeat=np.array([0, 2, 1, 2, 1, 2], np.uint8), repeat_at=np.array([0, 5, 9, 4, 8, 1])
    )
    assert RepeatFilter().keep(asked, found).tolist() == [True, False, True, False, True, False]


# --- an empty feed ---------------------------------------------------------------------------------------------------


def explained(store: PostStore, state: UserState, **request: Any) -> tuple[Result, Feed]:
    (result,) = pipeline_of(store, state).run([query(explain=True, **request)])
    return result, feed_of(result, store, NOW_MS, ["r"])


def test_an_empty_feed_says_why() -> None:
    store = store_of(post(1, 50), post(2, 51, labels=["spam"]), post(3, 52))
    state = viewer(blocks=[50, 52], seen=[3])
    result, feed = explained(store, state)
    reason = (
        "nothing to show: 3 candidates were dropped by author_socialgraph_filter (2), visibility_filter (1); "
        "the sources left out posts: 1 seen"
    )
    assert (feed.status, feed.degradations) == ("empty", [reason])
    explanation = explanation_of(result, store)
    assert (explanation.status, explanation.degradations) == ("empty", [reason])
    assert explanation.left_out == {"served": 0, "seen": 1}
    assert answer(store_of(), viewer()).degradations == ["nothing to show: the worker has no posts"]
    one = store_of(post(1, 50))
    assert answer(one, viewer(), in_network_only=True).degradations == ["nothing to show: no source found a post"]


@pytest.mark.parametrize("preset", [CLASSIC, X_2026_08_12], ids=lambda preset: preset.name)
def test_the_counts_of_what_sources_left_out_hold_without_repeats(preset: Parameters) -> None:
    store = store_of(*(post(i, 50 + i) for i in range(1, 6)))
    state = viewer(seen=[1, 2, 99], served=[(2, NOW_MS - 1), (3, NOW_MS - 1), (4, NOW_MS - 1), (5, NOW_MS - 1)])
    result, feed = explained(store, state, parameters=preset)
    assert explanation_of(result, store).left_out == {"served": 3, "seen": 2}
    assert feed.degradations == [
        "nothing to show: no source found a post; the sources left out posts: 3 served, 2 seen"
    ]


def test_a_feed_whose_posts_are_deleted_in_the_last_moment_says_so() -> None:
    store = store_of(post(1))
    (result,) = pipeline_of(store, viewer()).run([query()])
    store.remove([1])
    feed = feed_of(result, store, NOW_MS, ["r"])
    assert feed.degradations == ["nothing to show: all posts were deleted while the feed was made"]


# --- the model -------------------------------------------------------------------------------------------------------

small_ids = st.sets(st.integers(1, 12), max_size=12)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    small_ids, small_ids, small_ids, st.sets(st.integers(50, 54), max_size=2), small_ids, small_ids, st.integers(1, 15)
)
def test_a_feed_has_what_may_be_shown_new_posts_first(
    seen: set[int],
    served: set[int],
    labelled: set[int],
    blocked: set[int],
    reported: set[int],
    deleted: set[int],
    size: int,
) -> None:
    store = store_of(*(post(i, 50 + i % 5, labels=["spam"] if i in labelled else []) for i in range(1, 13)))
    store.remove([*deleted])
    state = viewer(blocks=blocked, seen=seen, served=[(i, NOW_MS - 1) for i in served])
    state.rejected = ids(*reported)
    may_be_shown = {i for i in range(1, 13) if i not in labelled | reported | deleted and 50 + i % 5 not in blocked}
    new = may_be_shown - seen - served
    found = marks(answer(store, state, size=size))
    assert {i for i, mark in found.items() if mark is None} <= new
    assert {i for i, mark in found.items() if mark == "served"} <= (may_be_shown & served) - seen
    assert {i for i, mark in found.items() if mark == "seen"} <= may_be_shown & seen
    wanted = len(new) if len(new) >= min(FORYOU.repeat_below, size) else len(may_be_shown)
    assert len(found) == min(size, wanted), "it is empty only if nothing may be shown"
