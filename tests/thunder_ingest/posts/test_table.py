from functools import reduce
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.ports.clock import DAY_MS
from thunder_ingest.events import Post, PostCreated, PostDeleted, PostEvent, PostLabeled, Refused, unpack_post
from thunder_ingest.events.ids import id64
from thunder_ingest.events.text import packed_tokens
from thunder_ingest.posts.table import MAX_LABELS, STATE_HEADER, PostTable, changelog, from_event, join, newest_at

T0 = 1_700_000_000_000


def created(at: int, text: str = "", post_id: int | str = 1, **fields: Any) -> PostCreated:
    return PostCreated(post_id=post_id, author_id=fields.pop("author_id", 7), at=T0 + at, text=text, **fields)


def deleted(at: int, post_id: int = 1, author_id: int = 7) -> PostDeleted:
    return PostDeleted(post_id=post_id, author_id=author_id, at=T0 + at)


def labeled(at: int, label: str = "spam", removed: bool = False, post_id: int = 1) -> PostLabeled:
    return PostLabeled(post_id=post_id, author_id=7, at=T0 + at, label=label, removed=removed)


def joined(*events: PostEvent) -> Post:
    return reduce(join, map(from_event, events))


# few times and contents, so that ties are common
times = st.integers(1, 5)
creations = st.builds(
    created,
    times,
    st.sampled_from(["", "a", "b"]),
    video_ms=st.sampled_from([None, 5]),
    lang=st.sampled_from(["", "en"]),
)
events_of_one_post = st.lists(
    creations | st.builds(deleted, times) | st.builds(labeled, times, st.sampled_from("xy"), st.booleans()),
    min_size=1,
    max_size=8,
)


# --- the join -------------------------------------------------------------------------------------------------------


@given(events_of_one_post, events_of_one_post, events_of_one_post)
def test_join_is_commutative_associative_and_idempotent(
    a: list[PostEvent], b: list[PostEvent], c: list[PostEvent]
) -> None:
    x, y, z = joined(*a), joined(*b), joined(*c)
    assert join(x, y) == join(y, x)
    assert join(join(x, y), z) == join(x, join(y, z))
    assert join(x, x) == x


@given(events_of_one_post)
def test_a_post_has_the_state_of_its_newest_events(events: list[PostEvent]) -> None:
    post = joined(*events)
    creations = [event for event in events if isinstance(event, PostCreated)]
    deletion = max((event.at for event in events if isinstance(event, PostDeleted)), default=0)
    content = max((event.at for event in creations), default=0)
    assert post.deleted_at == deletion
    assert post.created_at == min((event.at for event in creations), default=0)
    assert post.is_live == (content > deletion)
    if post.is_live:
        newest = [event for event in creations if event.at == content]
        assert (post.text, post.video_ms, post.lang) in [(e.text, e.video_ms or 0, e.lang) for e in newest]
        assert post.tokens == packed_tokens(post.text)
    else:
        assert (post.at, post.text, post.tokens, post.video_ms) == (0, "", b"", 0)
    for label in "xy":
        labeled = [(e.at, not e.removed) for e in events if isinstance(e, PostLabeled) and e.label == label]
        assert (post.labels.get(label, 0) > 0) == (bool(labeled) and max(labeled)[1])


def test_a_deleted_post_never_returns_even_if_created_late() -> None:
    assert not joined(deleted(5), created(3, "late"), created(5, "at the same time")).is_live


def test_a_post_published_after_its_deletion_is_restored_and_no_younger() -> None:
    post = joined(created(1, "first"), deleted(5), created(6, "again"))
    assert post.is_live
    assert (post.text, post.created_at) == ("again", T0 + 1)


def test_an_edit_replaces_the_content_whole_and_a_late_older_one_nothing() -> None:
    post = joined(created(4, "edited"), created(1, "first", video_ms=9, lang="en"))
    assert (post.text, post.video_ms, post.lang, post.created_at, post.at) == ("edited", 0, "", T0 + 1, T0 + 4)


def test_nothing_of_the_text_of_a_deleted_post_is_kept() -> None:
    post = joined(created(1, "private", lang="en"), deleted(2))
    _, value, headers = changelog(post)
    assert value is None
    assert b"private" not in dict(headers or ())[STATE_HEADER]


def test_at_one_time_deletion_beats_content_and_a_label_on_beats_off() -> None:
    assert not joined(created(2), deleted(2)).is_live
    assert joined(labeled(2), labeled(2, removed=True)).labels == {"spam": T0 + 2}
    assert joined(labeled(2), labeled(3, removed=True)).labels == {"spam": -T0 - 3}


def test_labels_outlive_edits_deletion_and_restoration() -> None:
    post = joined(labeled(1), created(2), deleted(3), created(4))
    assert post.labels == {"spam": T0 + 1}


def test_a_post_has_all_fields_of_its_event() -> None:
    event = created(
        1,
        "Hello #World",
        post_id="did:x:1",
        author_id="did:x:2",
        kind="quote",
        lang="en",
        conversation_id="did:x:3",
        in_reply_to_post_id=4,
        in_reply_to_author_id=5,
        source_post_id=6,
        source_author_id=7,
        photos=2,
        video_ms=3,
        subscriber_only=True,
    )
    assert from_event(event) == Post(
        post_id=id64("did:x:1"),
        author_id=id64("did:x:2"),
        created_at=T0 + 1,
        at=T0 + 1,
        kind=3,
        text="Hello #World",
        lang="en",
        conversation_id=id64("did:x:3"),
        in_reply_to_post_id=4,
        in_reply_to_author_id=5,
        source_post_id=6,
        source_author_id=7,
        photos=2,
        video_ms=3,
        subscriber_only=True,
        tokens=packed_tokens("hello world"),
        post_form="did:x:1",
        author_form="did:x:2",
    )


# --- the table ------------------------------------------------------------------------------------------------------

events_of_posts = st.lists(
    st.builds(created, times, st.sampled_from("ab"), post_id=st.integers(1, 3))
    | st.builds(deleted, times, post_id=st.integers(1, 3))
    | st.builds(labeled, times, st.sampled_from("xy"), st.booleans(), post_id=st.integers(1, 3)),
    max_size=12,
)


def table_of(events: list[PostEvent], max_age_ms: int = DAY_MS) -> tuple[PostTable, dict[int, Post], list[Post]]:
    """A table after some events, the state of a reader of its changelog, and the whole changelog."""
    table, log = PostTable(max_age_ms), []
    for event in events:
        post = table.apply(event, T0 + 10)
        if post is not None:
            log.append(post)
    return table, {post.post_id: post for post in log}, log


@given(events_of_posts, st.randoms(use_true_random=False))
def test_any_order_of_events_and_any_duplicates_lead_to_one_table(events: list[PostEvent], random: Any) -> None:
    _, expected, _ = table_of(events)
    shuffled = events + [event for event in events if random.random() < 0.5]
    random.shuffle(shuffled)
    _, posts, _ = table_of(shuffled)
    assert posts == expected
    assert {id_: changelog(post) for id_, post in posts.items()} == {id_: changelog(p) for id_, p in expected.items()}


@given(events_of_posts, st.randoms(use_true_random=False), st.integers(0, 12))
def test_a_table_restored_from_its_changelog_in_any_order_goes_on_as_if_nothing_had_happened(
    events: list[PostEvent], random: Any, killed_after: int
) -> None:
    _, _, log = table_of(events[:killed_after])
    records = [changelog(post) for post in log]
    random.shuffle(records)
    restarted = PostTable(DAY_MS)
    for _, value, headers in records:
        restarted.restore(value, headers)
    replayed = events[max(0, killed_after - 3) :]  # uncommitted events come again
    known = {post.post_id: post for post in log}
    for event in replayed:
        post = restarted.apply(event, T0 + 10)
        known |= {} if post is None else {post.post_id: post}
    _, expected, _ = table_of(events)
    assert known == expected


@given(events_of_posts)
def test_events_that_are_applied_again_change_nothing(events: list[PostEvent]) -> None:
    table, _, _ = table_of(events)
    assert [table.apply(event, T0 + 10) for event in events] == [None] * len(events)


def test_a_live_post_is_a_record_and_a_deleted_one_a_tombstone_with_its_time() -> None:
    live = joined(created(1, "x"))
    assert changelog(live)[::2] == (b"1", None)
    assert unpack_post(changelog(live)[1] or b"") == live
    gone = joined(created(1, "x"), deleted(2), labeled(1))
    key, value, headers = changelog(gone)
    assert (key, value) == (b"1", None)
    assert unpack_post(dict(headers or ())[STATE_HEADER]) == gone


def test_a_label_that_comes_before_its_post_is_a_tombstone_with_the_label() -> None:
    early = joined(labeled(1))
    key, value, headers = changelog(early)
    assert (key, value) == (b"1", None)
    assert unpack_post(dict(headers or ())[STATE_HEADER]) == early


def test_a_tombstone_without_a_state_restores_nothing() -> None:
    table = PostTable(DAY_MS)
    table.restore(None, None)
    table.restore(None, [])
    assert len(table) == 0


def test_a_late_creation_after_a_restart_still_loses_against_the_deletion() -> None:
    table, _, log = table_of([created(1, "x"), deleted(5)])
    restarted = PostTable(DAY_MS)
    restarted.restore(*changelog(log[-1])[1:])
    assert restarted.apply(created(4, "late"), T0 + 10) is None
    assert len(table) == len(restarted) == 1


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (created(1), created(2, author_id=8), "the author of this post is 7"),
        (created(1, author_id="did:a"), created(2, author_id=id64("did:a")), "the author of this post is 'did:a'"),
        (created(1, post_id="did:p"), created(2, post_id=id64("did:p")), "another post id, 'did:p', already stands"),
        (created(1, post_id=id64("did:p")), created(2, post_id="did:p"), "another post id, .* already stands"),
    ],
)
def test_an_event_that_contradicts_the_stored_post_is_refused(first: PostEvent, second: PostEvent, reason: str) -> None:
    table, _, (known,) = table_of([first])
    with pytest.raises(Refused, match=reason):
        table.apply(second, T0 + 10)
    assert table.apply(first, T0 + 10) is None
    assert known == from_event(first)


def test_records_of_two_posts_are_never_joined() -> None:
    with pytest.raises(Refused, match="are not one"):
        join(from_event(created(1)), from_event(created(1, post_id=2)))


def test_a_post_bears_a_bounded_number_of_labels() -> None:
    table, _, _ = table_of([labeled(1, f"label {n}") for n in range(MAX_LABELS)])
    with pytest.raises(Refused, match="64 labels"):
        table.apply(labeled(2, "one more"), T0 + 10)
    assert table.apply(labeled(2, "label 0", removed=True), T0 + 10) is not None


# --- age ------------------------------------------------------------------------------------------------------------


def test_an_event_older_than_the_table_remembers_is_passed_over() -> None:
    table = PostTable(max_age_ms=100)
    assert table.apply(created(1), T0 + 102) is None
    assert table.apply(created(2), T0 + 102) is not None


def test_an_old_event_about_a_remembered_post_still_counts() -> None:
    table = PostTable(max_age_ms=100)
    table.apply(labeled(50), T0 + 60)
    post = table.apply(created(1, "x"), T0 + 120)
    assert post is not None
    assert post.labels == {"spam": T0 + 50}


def test_a_post_is_forgotten_when_nothing_was_said_about_it_for_long() -> None:
    table = PostTable(max_age_ms=100)
    table.apply(created(1), T0 + 10)
    table.apply(labeled(5), T0 + 10)
    assert table.expire(T0 + 105) == []
    assert table.expire(T0 + 106) == [1]
    assert len(table) == 0
    assert table.expire(T0 + 106) == []


def test_a_post_that_is_not_live_expires_without_a_second_tombstone() -> None:
    table = PostTable(max_age_ms=100)
    for event in (labeled(1, post_id=1), created(2, post_id=2), deleted(2, post_id=2), created(2, post_id=3)):
        table.apply(event, T0 + 10)
    assert table.expire(T0 + 103) == [3]
    assert len(table) == 0


@settings(max_examples=50)
@given(events_of_posts, st.lists(st.integers(1, 12), max_size=4))
def test_expiry_drops_exactly_the_posts_that_are_too_old(events: list[PostEvent], clock: list[int]) -> None:
    table, posts, _ = table_of(events, max_age_ms=5)
    posts = {id_: post for id_, post in posts.items() if newest_at(post) >= T0 + 5}
    table.expire(T0 + 10)
    for now in sorted(clock):
        expired = set(table.expire(T0 + 5 + now))
        assert expired == {id_ for id_, post in posts.items() if newest_at(post) < T0 + now and post.is_live}
        posts = {id_: post for id_, post in posts.items() if newest_at(post) >= T0 + now}
        assert len(table) == len(posts)


# --- edits of one time, and labels by any name ----------------------------------------------------------------------


def test_between_edits_of_one_time_the_greater_revision_wins_then_the_more_restricted_then_the_shorter_text() -> None:
    long, short = created(2, "a long text"), created(2, "removed")
    assert joined(long, short).text == joined(short, long).text == "removed"
    newer = created(2, "a longer text, revised", revision=2)
    assert joined(newer, short).text == joined(short, newer).text == "a longer text, revised"
    closed = created(2, "for subscribers only", subscriber_only=True)
    assert joined(closed, short).subscriber_only
    assert joined(created(3, "later"), newer).text == "later"


def test_a_revision_is_kept_in_the_changelog() -> None:
    table, _, _ = table_of([created(2, "first", revision=3)])
    assert table.apply(created(2, "", revision=2), T0) is None
    post = table.apply(created(2, "second", revision=4), T0)
    assert post is not None
    assert (post.text, post.revision) == ("second", 4)


@pytest.mark.parametrize("name", ["adult", "Adult", " ADULT\t", "\uff21dult"])
def test_case_and_blanks_of_a_label_do_not_matter(name: str) -> None:
    assert joined(labeled(1, name)).labels == {"adult": T0 + 1}
    assert joined(labeled(1, name), labeled(2, "adult", removed=True)).labels == {"adult": -T0 - 2}
    assert joined(labeled(1, "Child  Safety")).labels == {"child_safety": T0 + 1}


def test_labels_of_an_earlier_version_are_restored_under_their_names() -> None:
    table = PostTable(DAY_MS)
    known = joined(created(1))
    known.labels = {"Adult": T0 + 1, "adult": -T0 - 3}
    table.restore(*changelog(known)[1:])
    assert table.apply(labeled(3, "Adult", removed=True), T0) is None
