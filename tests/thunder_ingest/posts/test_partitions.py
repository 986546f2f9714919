"""The records of one post may lie in several partitions: the store is the same in any order of reading."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.thunder_ingest.posts.test_store import ids, post
from thunder_ingest.events import Post, PostCreated, PostDeleted, PostEvent, PostLabeled, pack, unpack_post
from thunder_ingest.posts.store import PostStore
from thunder_ingest.posts.table import PostTable, state_of

T0 = 1_700_000_000_000
POSTS = (1, 2)

times = st.integers(T0 + 1, T0 + 6)
events: st.SearchStrategy[PostEvent] = st.one_of(
    st.builds(
        PostCreated,
        post_id=st.sampled_from(POSTS),
        author_id=st.just(7),
        at=times,
        text=st.sampled_from(["", "a", "b c", "a b c d"]),
        photos=st.integers(0, 2),
    ),
    st.builds(PostDeleted, post_id=st.sampled_from(POSTS), author_id=st.just(7), at=times),
    st.builds(
        PostLabeled,
        post_id=st.sampled_from(POSTS),
        at=times,
        label=st.sampled_from(["spam", "adult"]),
        removed=st.booleans(),
    ),
)


def states_of(log: list[PostEvent]) -> list[Post]:
    """The states in the records that the flow writes for a log; equal times decide by content, which a worker lacks."""
    table, states = PostTable(1_000_000), list[Post]()
    for event in log:
        for _, value, headers in table.changes([event], T0).records:
            state = state_of(value, headers)
            assert state is not None
            states.append(state)
    return states


def found(store: PostStore) -> dict[int, tuple[Any, ...]]:
    rows = store.rows_of(ids(*POSTS))
    columns = store.columns(rows[rows >= 0])
    labels = [sorted(store.label_names(mask)) for mask in columns.labels.tolist()]
    words = np.count_nonzero(columns.tokens, axis=1).tolist()
    return dict(zip(columns.post_id.tolist(), zip(labels, words, columns.photos.tolist(), strict=True), strict=True))


def put(store: PostStore, states: list[Post], sizes: list[int]) -> None:
    """Apply records in batches, plain ones without decoding, like the replica."""
    while states:
        size = sizes.pop() if sizes else len(states)
        some, states = states[:size], states[size:]
        if len({each.post_id for each in some}) == len(some):
            packed = [pack(each) for each in some]
            _, others = store.apply_packed(packed)
            some = [unpack_post(packed[place]) for place in others]
        store.apply(some)


def in_log_order(states: list[Post]) -> dict[int, tuple[Any, ...]]:
    store = PostStore()
    put(store, states, [])
    return found(store)


@given(st.lists(events, min_size=1, max_size=12, unique_by=lambda event: (event.post_id, event.at)), st.data())
def test_a_store_is_the_same_in_any_order_of_a_posts_records(log: list[PostEvent], data: st.DataObject) -> None:
    states = states_of(log)
    newest = {state.post_id: state for state in states}
    expected = {
        post_id: (
            sorted(label for label, at in state.labels.items() if at > 0),
            len(state.tokens) // 4,
            state.photos,
        )
        for post_id, state in newest.items()
        if state.is_live
    }
    store = PostStore()
    put(store, data.draw(st.permutations(states)), data.draw(st.lists(st.integers(1, 4), max_size=8)))
    assert found(store) == expected == in_log_order(states)


def test_a_deleted_post_stays_deleted_if_its_creation_is_read_later() -> None:
    store = PostStore()
    store.apply([Post(post_id=5, author_id=1, deleted_at=post(5).at + 1)])
    store.apply_packed([pack(post(5))])
    store.apply([post(5)])
    assert len(store) == 0
    assert store.were_deleted(ids(5, 6)).tolist() == [True, False]
    store.apply([post(5, at=post(5).at + 2)])
    assert len(store) == 1
    assert not store.were_deleted(ids(5)).any()


def test_a_deletion_is_forgotten_once_the_post_would_be_too_old() -> None:
    store = PostStore()
    store.apply([Post(post_id=n, author_id=1, deleted_at=T0 + n) for n in range(1, 5_000)])
    store.expire(T0 + 5_000 + store.limits.max_age_ms)
    assert not store.were_deleted(ids(1, 4_999)).any()
