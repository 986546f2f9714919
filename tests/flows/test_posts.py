import pickle
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations

import pytest
from bytewax.testing import TestingSink, TestingSource, run_main
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.decoding import Decoder
from flows.posts import Apply, Route, Share, build_flow, restore_from
from flows.sources import Batch
from infra.ports.clock import HOUR_MS, LogClock
from infra.ports.producer import KafkaProducer, Record
from infra.ports.settings import Settings
from tests.flows.messages import batch
from thunder_ingest.events import (
    MAX_MESSAGE_BYTES,
    Event,
    Post,
    PostCreated,
    PostDeleted,
    PostLabeled,
    unpack_dead_letter,
    unpack_post,
)
from thunder_ingest.posts.table import PostTable

T0 = 1_700_000_000_000


def run(
    batches: Iterable[Batch], changelog: Iterable[Record] = (), age_ms: int = 48 * HOUR_MS, processes: int = 1
) -> list[Record]:
    """Run the flow on batches, after a restart from a changelog; return the written records."""
    config, clock, out = Settings(), LogClock(), list[tuple[str, Share]]()
    route = Route(processes)
    applies = {part: Apply(PostTable(age_ms), clock, restore_of(changelog)) for part in route.parts}
    run_main(build_flow(TestingSource(batches), TestingSink(out), Decoder(config, clock), route))
    return [record for part, share in out for record in applies[part](pickle.loads(pickle.dumps(share)))]


def restore_of(changelog: Iterable[Record]) -> Callable[[PostTable], None]:
    def restore(table: PostTable) -> None:
        for record in changelog:
            if record.topic == "thunder-posts":
                table.restore(record.value, record.headers)

    return restore


def served(records: Iterable[Record]) -> dict[bytes, Post | None]:
    """The topic after compaction: the last record of each key."""
    last = {record.key or b"": record.value for record in records if record.topic == "thunder-posts"}
    return {key: unpack_post(value) if value else None for key, value in last.items()}


def created(post_id: int = 1, at: int = T0, text: str = "hello") -> PostCreated:
    return PostCreated(post_id=post_id, author_id=7, at=at, text=text)


def test_a_post_is_served_under_its_id() -> None:
    post = served(run([batch("posts", created())]))[b"1"]
    assert post is not None
    assert (post.author_id, post.text, post.created_at) == (7, "hello", T0)


def test_a_restarted_flow_reads_the_tombstone_of_a_deleted_post() -> None:
    first = run([batch("posts", PostDeleted(post_id=1, author_id=7, at=T0 + 1))])
    assert served(first) == {b"1": None}
    assert served(run([batch("posts", created(at=T0), start=1)], first)) in ({}, {b"1": None})


def test_edits_in_one_batch_are_written_once() -> None:
    records = run([batch("posts", created(), created(at=T0 + 5, text="edited"))])
    assert len(records) == 1
    post = served(records)[b"1"]
    assert post is not None
    assert (post.text, post.created_at) == ("edited", T0)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "truncated"),
        (b"\xff\xfe", "malformed"),
        (b"[]", "object"),
        (b'{"type":"post_created"}', "post_id"),
        (b'{"type":"post_created","post_id":1,"author_id":1}', "`at`"),
        (b'{"type":"post_eaten","post_id":1,"author_id":1,"at":1700000000000}', "post_eaten"),
        (b'{"type":"post_created","post_id":0,"author_id":1,"at":1700000000000}', "post_id"),
        (b'{"type":"post_created","post_id":"a b","author_id":1,"at":1700000000000}', "post_id"),
        (b'{"type":"post_created","post_id":1,"author_id":1,"at":99999999999999}', "future"),
        (b'{"type":"post_created","post_id":1,"author_id":1,"at":1700000000000,"kind":"repost"}', "source_post_id"),
        (b" " * (MAX_MESSAGE_BYTES + 1), "at most"),
        (None, "null"),
    ],
)
def test_an_invalid_message_becomes_one_dead_letter_and_the_flow_continues(raw: bytes | None, reason: str) -> None:
    records = run([batch("posts", created(1), raw, created(2), start=40, partition=3)])
    assert set(served(records)) == {b"1", b"2"}
    (dead,) = [record for record in records if record.topic == "dead-letters"]
    letter = unpack_dead_letter(dead.value or b"")
    assert dead.key == b"posts"
    assert (letter.topic, letter.partition, letter.offset) == ("posts", 3, 41)
    assert (letter.key, letter.value) == (b"key", raw and raw[:MAX_MESSAGE_BYTES])
    assert reason in letter.reason


def test_a_deletion_ends_a_post_that_a_fast_clock_has_published() -> None:
    post, deletion = created(at=T0 + 120_000), PostDeleted(post_id=1, author_id=7, at=T0 + 5_000)
    in_time = [batch("posts", post, arrived_ms=T0), batch("posts", deletion, start=1, arrived_ms=T0 + 700)]
    assert served(run(in_time)) == {b"1": None}
    assert served(run([batch("posts", post, deletion, arrived_ms=T0)])) == {b"1": None}
    assert served(run([batch("posts", deletion, post, arrived_ms=T0)])) == {b"1": None}


def test_a_later_word_wins_over_a_label_and_an_edit_of_a_fast_clock() -> None:
    label = PostLabeled(post_id=1, author_id=7, at=T0 + 250_000, label="gore")
    removed = PostLabeled(post_id=1, author_id=7, at=T0 + 1_500, label="gore", removed=True)
    batches = [
        batch("posts", created(at=T0 + 200_000), label, arrived_ms=T0),
        batch("posts", created(at=T0 + 1_000, text="edited"), removed, start=2, arrived_ms=T0 + 1_500),
    ]
    post = served(run(batches))[b"1"]
    assert post is not None
    assert (post.created_at, post.at, post.text) == (T0, T0 + 1_000, "edited")
    assert post.labels == {"gore": -(T0 + 1_500)}


def test_a_second_reading_of_a_log_decides_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker keeps the arrival, so the time of the reading makes no difference."""
    ahead = [batch("posts", created(at=T0 + 120_000), created(2, at=T0 + 400_000), arrived_ms=T0)]
    first = served(run(ahead))
    monkeypatch.setattr("flows.decoding.now_ms", lambda: T0 + 500_000)
    assert served(run(ahead)) == first
    assert set(first) == {b"1"}  # the other one is too far ahead, also when it is read late


def test_seconds_are_refused_with_the_hint_and_leave_a_live_post_alone() -> None:
    seconds = b'{"type":"post_created","post_id":1,"author_id":7,"at":1700000001,"text":"again"}'
    records = run([batch("posts", created(), seconds)])
    assert (served(records)[b"1"] or Post(post_id=1, author_id=7)).text == "hello"
    (letter,) = [unpack_dead_letter(record.value or b"") for record in records if record.topic == "dead-letters"]
    assert "seconds, most likely" in letter.reason


def test_one_post_of_a_later_year_leaves_a_log_on_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.posts.EXPIRE_EVERY_S", 0.0)
    posts = [created(number, at=T0 + 1_000 * number) for number in range(1, 21)]
    outlier = created(99, at=T0 + 4 * 365 * 24 * HOUR_MS)
    monkeypatch.setattr("flows.decoding.now_ms", lambda: outlier.at)
    for log in ([outlier, *posts], [*posts[:5], outlier, *posts[5:]], [*posts, outlier]):
        batches = [batch("posts", event, start=number) for number, event in enumerate(log)]
        live = served(run([*batches, batch("posts", created(20, at=T0 + 30_000), start=99)]))
        assert {key for key, post in live.items() if post} >= {b"%d" % number for number in range(1, 21)}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_deletion_and_a_label_by_a_moderator_hold_whenever_they_come(order: Sequence[int]) -> None:
    gore = PostLabeled(post_id=1, author_id=8, at=T0 + 1, label="Gore ")
    deleted = PostDeleted(post_id=1, author_id=8, at=T0 + 1)
    nameless = PostLabeled(post_id=1, at=T0 + 2, label="adult")
    for others, left in (((gore, nameless), {"gore": T0 + 1, "adult": T0 + 2}), ((deleted, nameless), None)):
        events = [created(), *others]
        records = run([batch("posts", events[place]) for place in order])
        assert "dead-letters" not in [record.topic for record in records]
        post = served(records)[b"1"]
        assert (post and (post.labels, post.author_id)) == (left and (left, 7))


def test_a_creation_by_another_author_is_refused() -> None:
    other = PostCreated(post_id=1, author_id=8, at=T0 + 1, text="mine now")
    records = run([batch("posts", created(), other)])
    post = served(records)[b"1"]
    assert post is not None
    assert (post.author_id, post.text) == (7, "hello")
    assert [record.topic for record in records].count("dead-letters") == 1


@pytest.mark.parametrize(("late_tolerance_ms", "created_at"), [(2 * HOUR_MS, T0), (0, T0 + 47 * HOUR_MS)])
def test_a_late_event_within_the_tolerance_is_joined_with_its_post(
    monkeypatch: pytest.MonkeyPatch, late_tolerance_ms: int, created_at: int
) -> None:
    """Else an edit would reset the age of an old post."""
    monkeypatch.setattr("flows.posts.EXPIRE_EVERY_S", 0.0)
    age_ms = Settings(max_post_age_ms=48 * HOUR_MS, late_tolerance_ms=late_tolerance_ms).remembered_ms
    other, edit = created(2, at=T0 + 49 * HOUR_MS), created(at=T0 + 47 * HOUR_MS, text="edited")
    post = served(run([batch("posts", event) for event in (created(), other, edit)], age_ms=age_ms))[b"1"]
    assert post is not None
    assert (post.text, post.created_at) == ("edited", created_at)


def test_a_process_that_lost_a_partition_does_not_expire_posts_of_its_new_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both restore the whole table; only the new owner of the partition receives the post's creation."""
    monkeypatch.setattr("flows.posts.EXPIRE_EVERY_S", 0.0)
    label = PostLabeled(post_id=1, author_id=7, at=T0, label="adult")
    before = run([batch("posts", label)])
    new_owner = run([batch("posts", created(at=T0 + 47 * HOUR_MS))], before)
    old_owner = run([batch("posts", created(2, at=T0 + 49 * HOUR_MS), partition=1)], before)
    post = served([*before, *new_owner, *old_owner])[b"1"]
    assert post is not None
    assert post.labels == {"adult": T0}


@pytest.mark.parametrize("processes", [1, 2, 3])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_number_of_processes_and_any_partitioner_lead_to_one_changelog(processes: int, data: st.DataObject) -> None:
    events = data.draw(st.lists(post_events, max_size=12))
    undisturbed = served(run([batch("posts", *events)]))
    placed = [(data.draw(st.integers(0, 3)), event) for event in data.draw(st.permutations(events))]
    batches = [batch("posts", event, partition=partition, start=n) for n, (partition, event) in enumerate(placed)]
    assert served(run(batches, processes=processes)) == undisturbed


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_each_post_belongs_to_one_process_and_all_processes_have_posts(processes: int) -> None:
    route = Route(processes)
    parts = [route.part_of(post_id) for post_id in [*range(1, 200), *(2**40 * n for n in range(1, 200)), 2**63 - 1]]
    assert set(parts) == set(route.parts)


def test_a_process_restores_only_the_posts_of_its_part(servers: Settings) -> None:
    producer, table, route = KafkaProducer(servers), PostTable(48 * HOUR_MS), Route(2)
    post_ids = range(9_000_000_000, 9_000_000_020)
    events = [created(post_id) for post_id in post_ids]
    producer.publish(run([batch("posts", *events)]))
    producer.flush()
    restore_from(servers, lambda post_id: route.part_of(post_id) == "1")(table)
    restored = [str(int(table.apply(event, T0) is None)) for event in events]
    assert restored == [route.part_of(post_id) for post_id in post_ids]


posts = st.integers(1, 3)
times = st.integers(T0, T0 + 20)
post_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(PostCreated, post_id=posts, author_id=st.just(7), at=times, text=st.sampled_from(["a b", "c"])),
    st.builds(PostDeleted, post_id=posts, author_id=st.just(7), at=times),
    st.builds(
        PostLabeled,
        post_id=posts,
        author_id=st.just(7),
        at=times,
        label=st.sampled_from(["spam", "adult"]),
        removed=st.booleans(),
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(post_events, max_size=12), st.data())
def test_a_flow_killed_anywhere_and_replayed_from_an_older_offset_ends_in_the_same_changelog(
    events: list[Event], data: st.DataObject
) -> None:
    undisturbed = run([batch("posts", *events)])
    killed_after = data.draw(st.integers(0, len(events)), label="killed after")
    resumed_from = data.draw(st.integers(0, killed_after), label="resumed from")
    before = run([batch("posts", event) for event in events[:killed_after]])
    after = run([batch("posts", event) for event in events[resumed_from:]], before)
    assert served([*before, *after]) == served(undisturbed)
