import threading
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.ports.clock import HOUR_MS
from tests.feed_worker.obvious import has
from thunder_ingest.events import ACTION_INDEX, IMPRESSION, KINDS, NEGATIVE_ACTIONS, QUOTE, KindName, Post, PostCounts
from thunder_ingest.events.muting import cut, phrases_of
from thunder_ingest.events.text import packed_tokens, token_hashes
from thunder_ingest.posts.popularity import DEFAULT
from thunder_ingest.posts.rows import PostRows
from thunder_ingest.posts.store import TOKENS_AT_ONCE, PostStore, StoreLimits

NOW = 1_700_000_000_000
NONE = np.zeros(0, np.int64)


def post(post_id: int, author_id: int = 1, age_ms: int = 1000, kind: KindName = "original", **fields: Any) -> Post:
    text = fields.pop("text", "")
    created_at = NOW - age_ms
    return Post(
        post_id=post_id,
        author_id=author_id,
        created_at=created_at,
        at=fields.pop("at", created_at),
        kind=KINDS.index(kind),
        text=text,
        tokens=packed_tokens(text),
        **fields,
    )


def store_of(*posts: Post, **limits: Any) -> PostStore:
    store = PostStore(StoreLimits(**limits))
    store.apply(posts)
    return store


def counts(post_id: int, at: int = NOW, impressions: int = 0, **totals: int) -> PostCounts:
    by_action = [0] * 20
    by_action[IMPRESSION] = impressions
    for name, total in totals.items():
        by_action[ACTION_INDEX[name]] = total  # type: ignore[index]  # the names are those of actions
    return PostCounts(post_id=post_id, at=at, totals=by_action)


def ids(*values: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(values, np.int64)


def stored_ids(store: PostStore, rows: np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
    post_ids: list[int] = store.columns(rows).post_id.tolist()
    return post_ids


def first_words(store: PostStore, *post_ids: int) -> list[int]:
    hashes: list[int] = store.columns(store.rows_of(ids(*post_ids))).tokens[:, 0].tolist()
    return hashes


def words(*texts: str) -> list[int]:
    return [int(token_hashes(text)[0]) for text in texts]


# --- what is stored -------------------------------------------------------------------------------------------------


def test_a_post_comes_back_in_columns_as_it_was_applied() -> None:
    store = store_of(
        post(
            5,
            author_id=2,
            kind="quote",
            text="Hello wide World",
            lang="en",
            conversation_id=3,
            in_reply_to_post_id=4,
            in_reply_to_author_id=6,
            source_post_id=7,
            source_author_id=8,
            photos=2,
            video_ms=9,
            subscriber_only=True,
            labels={"spam": NOW, "adult": -NOW},
        )
    )
    columns = store.columns(store.rows_of(ids(5)))
    plain = {name: column.tolist() for name, column in columns._asdict().items() if name not in ("tokens", "totals")}
    assert plain == {
        "post_id": [5],
        "author_id": [2],
        "created_at": [NOW - 1000],
        "kind": [QUOTE],
        "conversation_id": [3],
        "in_reply_to_post_id": [4],
        "in_reply_to_author_id": [6],
        "source_post_id": [7],
        "source_author_id": [8],
        "photos": [2],
        "video_ms": [9],
        "subscriber_only": [True],
        "labels": [store.label_mask(["spam"])],
        "lang": [columns.lang[0]],
    }
    assert store.language(int(columns.lang[0])) == "en"
    assert columns.tokens[0, :4].tolist() == [*token_hashes("hello wide world").tolist(), 0]


def test_a_post_that_is_not_stored_has_row_minus_one_and_reads_as_zeros() -> None:
    store = store_of(post(5))
    rows = store.rows_of(ids(4, 5, 6))
    assert (rows >= 0).tolist() == [False, True, False]
    columns = store.columns(rows)
    assert columns.post_id.tolist() == [0, 5, 0]
    assert not any(column[[0, 2]].any() for column in columns)
    assert store.rows_of(np.array([[5, 1], [2, 5]])).shape == (2, 2)


def test_columns_are_copies() -> None:
    store = store_of(post(5))
    store.columns(store.rows_of(ids(5))).author_id[0] = 99
    assert store.columns(store.rows_of(ids(5))).author_id.tolist() == [1]


def test_a_later_record_replaces_the_post_whole() -> None:
    store = store_of(post(5, text="first long text", lang="en", labels={"spam": NOW}, post_form="did:p"))
    store.apply([post(5, text="edited", labels={"spam": -NOW - 1})])
    rows = store.rows_of(ids(5))
    columns = store.columns(rows)
    assert (columns.labels.tolist(), store.language(int(columns.lang[0]))) == ([0], "")
    assert first_words(store, 5) == words("edited")
    assert np.count_nonzero(columns.tokens) == 1
    assert len(store) == 1


def test_of_two_records_of_a_post_in_one_batch_the_last_counts() -> None:
    store = store_of(post(5, text="old"), post(5, text="new"), post(6), post(6, at=0, deleted_at=NOW))
    assert first_words(store, 5) == words("new")
    assert len(store) == 1


def test_a_post_that_is_not_live_is_removed() -> None:
    store = store_of(post(5), post(6))
    store.apply([post(5, at=0, deleted_at=NOW), Post(post_id=7, author_id=1, labels={"spam": NOW})])
    assert store.rows_of(ids(5, 7)).tolist() == [-1, -1]
    store.remove([6, 6, 99])
    assert len(store) == 0


def test_a_restored_post_is_there_again() -> None:
    store = store_of(post(5))
    store.apply([post(5, at=0, deleted_at=NOW)])
    store.apply([post(5, at=NOW + 1)])
    assert stored_ids(store, store.in_network(ids(1), 9, NONE, NOW)) == [5]


def test_expiry_forgets_posts_that_are_too_old() -> None:
    store = store_of(post(5, age_ms=100), post(6, age_ms=101), max_age_ms=100)
    assert store.expire(NOW) == 1
    assert store.rows_of(ids(6)).tolist() == [-1]
    assert len(store) == 1


def test_ids_go_back_to_readers_as_they_were_published() -> None:
    store = store_of(post(5, author_id=6), post(7, author_id=8, post_form="at://x", author_form="did:y"))
    rows = store.rows_of(ids(7, 5))
    assert store.forms(rows) == [("at://x", "did:y"), ("5", "6")]
    store.remove([7])
    store.apply([post(9, author_id=10)])  # takes the free row
    assert store.forms(store.rows_of(ids(9))) == [("9", "10")]


def test_authors_that_an_event_left_out_are_filled_in_where_the_post_is_stored() -> None:
    store = store_of(
        post(1, author_id=11),
        post(2, author_id=12, kind="repost", source_post_id=1),
        post(3, author_id=13, kind="reply", in_reply_to_post_id=1),
        post(4, author_id=14, kind="repost", source_post_id=1, source_author_id=99),
        post(5, author_id=15, kind="repost", source_post_id=77),
    )
    columns = store.columns(store.rows_of(ids(1, 2, 3, 4, 5)))
    assert columns.source_author_id.tolist() == [0, 11, 0, 99, 0]
    assert columns.in_reply_to_author_id.tolist() == [0, 0, 11, 0, 0]


def test_the_store_grows_without_losing_anything() -> None:
    store = PostStore()
    for first in range(1, 5001, 700):
        store.apply([post(n, author_id=n % 7 + 1, text=f"t{n}") for n in range(first, min(first + 700, 5001))])
    rows = store.rows_of(np.arange(1, 5001))
    assert stored_ids(store, rows) == list(range(1, 5001))
    assert first_words(store, 1, 5000) == words("t1", "t5000")


def test_the_log_clock_is_the_newest_time_of_any_record() -> None:
    store = store_of(post(5), post(6, at=0, deleted_at=NOW + 7))
    assert store.newest_at == NOW + 7
    store.apply_counts([counts(5, at=NOW + 9)])
    assert store.newest_at == NOW + 9


# --- counts ---------------------------------------------------------------------------------------------------------


def test_counts_are_kept_before_and_after_the_arrival_of_their_post() -> None:
    store = store_of(post(5))
    store.apply_counts([counts(5, favorite=3), counts(6, favorite=4)])
    store.apply([post(6)])
    assert store.columns(store.rows_of(ids(5, 6))).totals[:, 0].tolist() == [3, 4]


def test_the_newest_counts_win_in_any_order() -> None:
    store = store_of(post(5))
    store.apply_counts([counts(5, at=NOW + 2, favorite=2), counts(5, at=NOW + 1, favorite=1)])
    store.apply_counts([counts(6, at=NOW + 2, favorite=2), counts(6, at=NOW + 1, favorite=1)])
    store.apply([post(6)])
    assert store.columns(store.rows_of(ids(5, 6))).totals[:, 0].tolist() == [2, 2]


def test_counts_survive_an_edit_and_a_deletion_that_is_taken_back() -> None:
    store = store_of(post(5))
    store.apply_counts([counts(5, favorite=3)])
    store.apply([post(5, text="edited")])
    store.apply([post(5, at=0, deleted_at=NOW)])
    store.apply([post(5, at=NOW + 1)])
    assert store.columns(store.rows_of(ids(5))).totals[:, 0].tolist() == [3]


def test_a_row_that_is_taken_again_inherits_no_counts() -> None:
    store = store_of(post(5))
    store.apply_counts([counts(5, favorite=3)])
    store.remove([5])
    store.apply([post(6)])
    assert not store.columns(store.rows_of(ids(6))).totals.any()


def test_counts_of_any_length_and_size_fit() -> None:
    store = store_of(post(5), post(6), post(7))
    totals = [2**40, -1]
    store.apply_counts(
        [PostCounts(post_id=5, at=1, totals=totals), PostCounts(post_id=6, at=1, totals=[1] * 30), counts(7)]
    )
    assert store.columns(store.rows_of(ids(5))).totals[0, :3].tolist() == [2**31 - 1, 0, 0]


def totals_of(store: PostStore, *post_ids: int) -> list[int]:
    favorites: list[int] = store.columns(store.rows_of(ids(*post_ids))).totals[:, 0].tolist()
    return favorites


def test_any_number_of_counts_wait_for_their_posts() -> None:
    store, n = PostStore(), 100_000
    for begin in range(1, n + 1, 5_000):
        store.apply_counts([counts(post_id, favorite=post_id) for post_id in range(begin, begin + 5_000)])
    store.apply([post(post_id) for post_id in range(1, n + 1)])
    assert totals_of(store, *range(1, n + 1)) == list(range(1, n + 1))


def test_early_counts_are_bounded_and_those_without_an_event_for_longest_go_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("thunder_ingest.counts.early_counts.MAX_POSTS", 8)
    store = PostStore()
    store.apply_counts([counts(n, favorite=n, at=NOW - n) for n in range(1, 10)])
    store.apply([post(n) for n in range(1, 10)])
    assert totals_of(store, *range(1, 10)) == [1, 2, 3, 4, 5, 6, 7, 0, 0]


def test_early_counts_without_an_event_within_the_maximum_age_are_dropped() -> None:
    store = PostStore(StoreLimits(max_age_ms=HOUR_MS))
    store.apply_counts([counts(5, favorite=5, at=NOW - HOUR_MS), counts(6, favorite=6, at=NOW - HOUR_MS - 1)])
    store.expire(NOW)
    store.apply([post(5), post(6)])
    assert totals_of(store, 5, 6) == [5, 0]


def test_a_tombstone_of_counts_drops_them_before_and_after_the_arrival_of_their_post() -> None:
    store = store_of(post(5))
    store.apply_counts([counts(5, favorite=5), counts(6, favorite=6), counts(7, favorite=7)])
    store.remove_counts([5, 6, 8])
    store.apply([post(6), post(7)])
    assert totals_of(store, 5, 6, 7) == [0, 0, 7]
    store.apply_counts([counts(5, at=NOW - 9, favorite=1)])
    assert totals_of(store, 5) == [1]


@given(st.lists(st.tuples(st.sampled_from(["post", "delete", "count", "gone"]), st.integers(1, 6), st.integers(1, 3))))
def test_counts_are_those_of_the_newest_record_in_any_order_of_posts_and_counts(
    steps: list[tuple[str, int, int]],
) -> None:
    store, newest, stored = PostStore(), dict[int, tuple[int, int]](), set[int]()
    for number, (step, post_id, at) in enumerate(steps):
        if step == "post":
            store.apply([post(post_id)])
            stored.add(post_id)
        elif step == "delete":
            store.remove([post_id])
            stored.discard(post_id)
        elif step == "count":
            store.apply_counts([counts(post_id, at=at, favorite=number)])
            newest[post_id] = max(newest.get(post_id, (0, 0)), (at, number))
        else:
            store.remove_counts([post_id])
            newest.pop(post_id, None)
        assert totals_of(store, *stored) == [newest.get(each, (0, 0))[1] for each in stored]


# --- labels and languages -------------------------------------------------------------------------------------------


def test_a_label_has_one_bit_for_queries_and_for_posts() -> None:
    store = PostStore()
    asked = store.label_mask(["gore"])
    store.apply([post(5, labels={"spam": NOW, "gore": NOW})])
    mask = int(store.columns(store.rows_of(ids(5))).labels[0])
    assert mask & asked
    assert mask == store.label_mask(["spam", "gore"])
    assert store.label_names(mask) == ["gore", "spam"]
    assert store.label_names(0) == []


def test_labels_beyond_those_that_fit_share_a_bit_and_hide_too_much_rather_than_too_little() -> None:
    store = store_of(post(5, labels={f"l{n:02}": NOW for n in range(70)}), post(6, labels={"l69": NOW}))
    mask = store.columns(store.rows_of(ids(5, 6))).labels
    assert mask[0] == np.uint64(2**64 - 1)
    late = store.label_mask(["later"])
    assert int(mask[1]) & late
    assert store.label_names(late) == ["other"]


# --- popular --------------------------------------------------------------------------------------------------------


def test_popular_posts_are_originals_and_quotes_best_first() -> None:
    store = store_of(
        post(1),
        post(2, kind="quote"),
        post(3, kind="reply"),
        post(4, kind="repost"),
        post(5),
        post(6, age_ms=50 * HOUR_MS),
    )
    store.apply_counts([counts(1, favorite=5, impressions=100), counts(2, favorite=50, impressions=100)])
    store.apply_counts([counts(6, favorite=500, impressions=500), counts(5, impressions=100)])
    assert stored_ids(store, store.popular(NOW, 10)) == [2, 1, 5]
    assert stored_ids(store, store.popular(NOW, 1)) == [2]


def test_an_unseen_post_comes_before_an_ignored_one_and_one_that_many_report_last() -> None:
    store = store_of(post(1), post(2), post(3))
    store.apply_counts([counts(2, impressions=1000, favorite=3), counts(3, impressions=1000, favorite=9, report=30)])
    assert stored_ids(store, store.popular(NOW, 10)) == [1, 2, 3]


@pytest.mark.parametrize("action", NEGATIVE_ACTIONS)
def test_negative_actions_of_a_few_accounts_change_no_popularity(action: str) -> None:
    store = store_of(post(1), post(2))
    store.apply_counts([counts(1, impressions=1000, favorite=500), counts(2, impressions=1000, favorite=499)])
    few = int(DEFAULT.few_accounts)
    store.apply_counts([counts(1, impressions=1000, favorite=500, **{action: few})])
    assert stored_ids(store, store.popular(NOW, 10)) == [1, 2]
    store.apply_counts([counts(1, impressions=1000, favorite=500, **{action: few + 1})])
    assert stored_ids(store, store.popular(NOW, 10)) == [2, 1]
    assert stored_ids(store, store.popular(NOW, 10, DEFAULT._replace(few_accounts=few + 1.0))) == [1, 2]


def test_an_account_that_reports_and_blocks_and_mutes_is_one_account() -> None:
    store, few = store_of(post(1), post(2)), int(DEFAULT.few_accounts)
    every = dict.fromkeys(NEGATIVE_ACTIONS, few)
    store.apply_counts([counts(1, impressions=1000, favorite=500, **every)])
    store.apply_counts([counts(2, impressions=1000, favorite=499)])
    assert stored_ids(store, store.popular(NOW, 10)) == [1, 2]


def test_popularity_halves_every_six_hours() -> None:
    store = store_of(post(1, age_ms=6 * HOUR_MS), post(2, age_ms=0))
    store.apply_counts([counts(1, favorite=1, impressions=50)])  # 2 in 100, half of it left
    store.apply_counts([counts(2, favorite=1, impressions=149)])  # 2 in 199
    assert stored_ids(store, store.popular(NOW, 2)) == [2, 1]
    assert stored_ids(store, store.popular(NOW, 0)) == []


# --- phrases --------------------------------------------------------------------------------------------------------


def test_a_phrase_is_found_wherever_it_stands_in_a_long_text() -> None:
    long = " ".join(f"w{n}" for n in range(200))
    store = store_of(post(1, text=long), post(2, text="w63 w64"), post(3, text=long + " end"), post(4, text="w1"))

    def containing(keyword: str) -> list[int]:
        asked = ids(1, 2, 3, 4, 9)
        found: list[int] = asked[store.contain_any(asked, phrases_of((keyword, "absent"), True))].tolist()
        return found

    assert containing("W63 w64") == [1, 2, 3]
    assert containing("w199 end") == [3]
    assert containing(long) == [1, 3]
    assert containing("") == []
    store.apply([post(1, text="short now"), post(3, text=long)])
    assert containing("w199 end") == []


few = st.text(st.sampled_from("ab 😂$é"), max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.lists(few, min_size=1, max_size=6), st.lists(few, max_size=5), st.randoms(use_true_random=False))
def test_a_post_is_found_if_its_text_contains_all_phrases_of_a_keyword(
    texts: list[str], keywords: list[str], random: Random
) -> None:
    store = store_of(*(post(n + 1, text="before " * n) for n in range(len(texts))))
    store.apply([post(n + 1, text=text) for n, text in enumerate(texts)])
    gone = random.randrange(len(texts)) + 1
    store.remove([gone])
    store.apply([post(50, text="😂 in a free block")])
    asked = np.arange(1, len(texts) + 1)
    found = store.contain_any(asked, phrases_of(tuple(keywords), True))
    for post_id, text, is_found in zip(asked.tolist(), texts, found.tolist(), strict=True):
        cuts = [[phrase for phrase in (cut(word).words, *cut(word).groups) if phrase] for word in keywords]
        parts = [cut(text).words, *cut(text).groups]
        expected = any(
            phrases and all(any(has(part, phrase) for part in parts) for phrase in phrases) for phrases in cuts
        )
        assert is_found is (expected and post_id != gone)


def test_the_store_is_held_for_a_bounded_search_however_many_keywords_and_long_texts(monkeypatch: Any) -> None:
    long = " ".join(["word"] * 10_000)
    store = store_of(*(post(n, text=long) for n in range(1, 41)), post(41, text=long + " muted word 7"))
    holds, search = list[int](), PostRows.contain_any

    def counted(self: PostRows, rows: Any, phrases: Any, most: int, found: Any) -> int:
        holds.append(search(self, rows, phrases, most, found))
        return holds[-1]

    monkeypatch.setattr(PostRows, "contain_any", counted)
    keywords = tuple(f"muted word {n}" for n in range(10_000))
    found = store.contain_any(np.arange(1, 42), phrases_of(keywords, True))
    assert np.flatnonzero(found).tolist() == [40]
    assert sum(holds) == 41
    assert max(holds) * 10_000 <= TOKENS_AT_ONCE + 10_000


# --- threads --------------------------------------------------------------------------------------------------------


def test_readers_that_hold_the_lock_see_one_state_while_a_writer_goes_on() -> None:
    store = store_of(post(1, text="even"))
    stop = threading.Event()

    def write() -> None:
        for n in range(1, 400):
            store.apply([post(1, author_id=1, text="odd" if n % 2 else "even", photos=n % 2), post(1000 + n)])
            store.remove([1000 + n])
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not stop.is_set():
        with store.lock:
            rows = store.rows_of(ids(1))
            assert first_words(store, 1) == words("odd" if store.columns(rows).photos[0] else "even")
    writer.join()


# --- against a model ------------------------------------------------------------------------------------------------

stored_posts = st.builds(
    post,
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(0, 12),
    st.sampled_from(KINDS),
    source_post_id=st.integers(0, 12),
    in_reply_to_post_id=st.integers(0, 12),
    at=st.just(NOW),
)
steps = st.lists(
    st.tuples(st.just("apply"), st.lists(stored_posts, max_size=6))
    | st.tuples(st.just("remove"), st.lists(st.integers(1, 12), max_size=3))
    | st.tuples(st.just("expire"), st.integers(0, 12)),
    max_size=10,
)


@settings(deadline=None)
@given(steps)
def test_the_author_index_finds_each_post_once_after_any_operations(steps: list[tuple[str, Any]]) -> None:
    store, model = PostStore(StoreLimits(max_age_ms=10)), dict[int, Post]()
    for step, argument in steps:
        if step == "apply":
            store.apply(argument)
            model |= {p.post_id: p for p in argument}
        elif step == "remove":
            store.remove(argument)
            model = {id_: p for id_, p in model.items() if id_ not in argument}
        else:
            store.expire(NOW + argument)
            model = {id_: p for id_, p in model.items() if p.created_at >= NOW + argument - 10}
        _check_in_network(store, list(model.values()))


def _check_in_network(store: PostStore, model: Sequence[Post]) -> None:
    assert len(store) == len(model)
    for author in (1, 2, 3):
        expected = [p for p in model if p.author_id == author and p.kind in (0, 3) and p.created_at >= NOW - 10]
        expected.sort(key=lambda p: (-p.created_at, -p.post_id))
        rows = store.in_network(ids(author), 99, NONE, NOW)
        columns = store.columns(rows)
        shown = [n for n, kind in zip(columns.post_id.tolist(), columns.kind.tolist(), strict=True) if kind in (0, 3)]
        assert shown == [p.post_id for p in expected]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2**31 - 1)), max_size=30), st.sets(st.integers(0, 30)))
def test_the_reach_of_authors_is_how_often_their_stored_posts_were_seen(
    posts: list[tuple[int, int]], removed: set[int]
) -> None:
    store = store_of(*(post(i, author) for i, (author, _) in enumerate(posts, 1)))
    store.apply_counts([counts(i, impressions=views) for i, (_, views) in enumerate(posts, 1)])
    store.remove([*removed])
    expected = [
        sum(views for i, (author, views) in enumerate(posts, 1) if author == asked and i not in removed)
        for asked in (4, 1, 404, 1, 2, 3)
    ]
    assert store.author_views(np.array([4, 1, 404, 1, 2, 3])).tolist() == expected
