"""The compiled decoder agrees with the decoder of single records."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.thunder_ingest.posts.test_store import ids, post
from thunder_ingest.events import MAX_TEXT, Post, pack, unpack_post
from thunder_ingest.events.ids import MAX_ID
from thunder_ingest.events.muting import phrases_of
from thunder_ingest.events.text import packed_tokens
from thunder_ingest.posts.store import PostStore

any_id = st.integers(1, MAX_ID) | st.integers(1, 300)
no_id_or_any = st.just(0) | any_id
texts = st.sampled_from(["", "one", "Zwei drei", "w " * 31, "w " * 63, "w " * 64, "w " * 300]) | st.text(max_size=300)
times = st.integers(1, 2**47)
records = st.builds(
    Post,
    post_id=any_id,
    author_id=any_id,
    created_at=times,
    at=st.just(0) | times,
    deleted_at=st.sampled_from([0, 0, 0, 5]),
    kind=st.integers(0, 3),
    text=texts,
    lang=st.sampled_from(["", "en", "ja", "x-klingon-long", "zh-Hant"]),
    conversation_id=no_id_or_any,
    in_reply_to_post_id=no_id_or_any,
    in_reply_to_author_id=no_id_or_any,
    source_post_id=no_id_or_any,
    source_author_id=no_id_or_any,
    photos=st.integers(0, 1000),
    video_ms=st.sampled_from([0, 9, 2**31 - 1]),
    subscriber_only=st.booleans(),
    labels=st.dictionaries(st.sampled_from(["spam", "adult"]), st.sampled_from([-7, 7]), max_size=1),
    post_form=st.none() | st.just("at://x"),
)


def with_tokens(record: Post) -> Post:
    record.tokens = packed_tokens(record.text)
    return record


def columns_of(store: PostStore, records: list[Post]) -> dict[str, Any]:
    rows = store.rows_of(ids(*(record.post_id for record in records)))
    columns = store.columns(rows)
    return {
        **{name: column.tolist() for name, column in columns._asdict().items() if name not in ("lang", "labels")},
        "langs": [store.language(code) for code in columns.lang.tolist()],
        "label_names": [store.label_names(mask) for mask in columns.labels.tolist()],
        "forms": store.forms(rows),
        "size": len(store),
        "newest_at": store.newest_at,
    }


@settings(deadline=None, max_examples=60)
@given(st.lists(records.map(with_tokens), max_size=12, unique_by=lambda record: record.post_id))
def test_a_store_filled_from_bytes_equals_one_filled_from_records(records: list[Post]) -> None:
    from_bytes, from_records = PostStore(), PostStore()
    packed = [pack(record) for record in records]
    created_at, others = from_bytes.apply_packed(packed)
    from_bytes.apply([unpack_post(packed[place]) for place in others])
    from_records.apply(records)
    assert columns_of(from_bytes, records) == columns_of(from_records, records)
    plain = [record.created_at for place, record in enumerate(records) if place not in others]
    assert created_at.tolist() == plain


def test_a_plain_post_is_read_at_once_and_a_rare_one_is_left_to_be_decoded() -> None:
    plain, labelled, deleted = post(1, text="a b"), post(2, labels={"spam": 5}), post(3, at=1, deleted_at=2)
    string_id, long = post(4, author_form="did:x"), post(5, text="w " * 64)
    store = PostStore()
    assert store.apply_packed([pack(p) for p in (plain, labelled, deleted, string_id, long)])[1] == [1, 2, 3, 4]


def test_bytes_that_are_no_record_are_left_alone() -> None:
    whole = pack(post(1, text="some words " * 20))
    broken = [whole[:length] for length in range(len(whole))] + [whole + b"\0", b"\xdc\0\x14" + b"\xff" * 40]
    store = PostStore()
    assert store.apply_packed(broken)[1] == list(range(len(broken)))
    assert len(store) == 0


def test_the_largest_text_is_read_whole() -> None:
    text = " ".join(["word"] * (MAX_TEXT // 5))
    store = PostStore()
    store.apply([post(1, text=text), post(2, text=text + " end")])
    store.remove([1])
    store.apply([post(3, text=text)])
    assert store.contain_any(ids(2, 3), phrases_of(("end",), True)).tolist() == [True, False]
