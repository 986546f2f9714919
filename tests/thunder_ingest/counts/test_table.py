from hypothesis import given
from hypothesis import strategies as st

from thunder_ingest.counts.table import CountTable, changes_of
from thunder_ingest.events import ACTION_INDEX, IMPRESSION, Engagement, EngagementEvent, Follow, Impression

T0 = 1_700_000_000_000

events: st.SearchStrategy[EngagementEvent] = st.one_of(
    st.builds(Impression, user_id=st.integers(1, 3), post_id=st.integers(1, 3), author_id=st.just(9), at=st.just(T0)),
    st.builds(
        Engagement,
        user_id=st.integers(1, 3),
        post_id=st.integers(1, 3),
        author_id=st.just(9),
        action=st.sampled_from(["favorite", "reply"]),
        at=st.just(T0),
    ),
)


@given(st.lists(st.lists(events, max_size=5), max_size=5))
def test_totals_do_not_depend_on_how_events_were_batched_or_where_a_snapshot_was_taken(
    batches: list[list[EngagementEvent]],
) -> None:
    whole = CountTable(1)
    whole.add(changes_of(event for events in batches for event in events))
    parts = CountTable(1)
    for each in batches:
        parts.add(changes_of(each))
        parts = CountTable(1, parts.snapshot())
    assert parts.drain() == whole.drain()


@given(st.lists(events, max_size=20), st.integers(1, 4))
def test_the_counts_of_all_shards_add_up_to_those_of_one_table(events: list[EngagementEvent], shards: int) -> None:
    changes, whole = changes_of(events), CountTable(1)
    whole.add(changes)
    found = []
    for shard, part in changes.of_shards(shards).items():
        table = CountTable(1)
        table.add(part)
        found += table.drain()
        assert {post_id % shards for post_id in part.post_id.tolist()} == {shard}
    assert sorted(found, key=lambda record: record.post_id) == sorted(whole.drain(), key=lambda record: record.post_id)


def test_a_table_holds_any_number_of_posts() -> None:
    table = CountTable(1)
    table.add(changes_of(Impression(user_id=1, post_id=n, author_id=9, at=T0) for n in range(1, 1_001)))
    assert len(CountTable(1, table.snapshot())) == len(table.drain()) == 1_000


def test_dwell_is_summed_in_milliseconds_and_impressions_have_a_column_of_their_own() -> None:
    table = CountTable(1)
    dwell = Engagement(user_id=1, post_id=5, author_id=9, action="dwell_time", dwell_ms=1_500, at=T0)
    table.add(changes_of([dwell, dwell, Impression(user_id=1, post_id=5, author_id=9, at=T0)]))
    (record,) = table.drain()
    assert record.totals[ACTION_INDEX["dwell_time"]] == 3_000
    assert record.totals[IMPRESSION] == 1


def test_the_social_graph_counts_nothing() -> None:
    assert len(changes_of([Follow(user_id=1, target_id=2, at=T0)]).post_id) == 0


def test_only_changed_totals_are_written_and_old_posts_are_forgotten() -> None:
    table = CountTable(1_000)
    table.add(changes_of([Impression(user_id=1, post_id=5, author_id=9, at=T0)]))
    assert len(table.drain()) == 1
    assert table.drain() == []
    table.add(changes_of([Impression(user_id=1, post_id=6, author_id=9, at=T0 + 2_000)]))
    assert [record.post_id for record in table.drain()] == [6]
    assert len(table) == len(CountTable(1_000, table.snapshot())) == 1


def test_a_late_event_counts_only_while_its_post_is_in_the_table() -> None:
    table = CountTable(1_000)
    table.add(changes_of([Impression(user_id=1, post_id=post_id, author_id=9, at=T0) for post_id in (5, 6)]))
    table.add(changes_of([Impression(user_id=1, post_id=6, author_id=9, at=T0 + 2_000)]))
    late = [Impression(user_id=2, post_id=post_id, author_id=9, at=T0 + 1) for post_id in (5, 6, 7)]
    table.add(changes_of(late))
    assert {record.post_id: record.totals[IMPRESSION] for record in table.drain()} == {5: 2, 6: 3}
    table = CountTable(1_000, table.snapshot())
    table.add(changes_of(late))
    assert {record.post_id: record.totals[IMPRESSION] for record in table.drain()} == {6: 4}


def test_an_undo_that_overtakes_its_action_shows_no_negative_count() -> None:
    table = CountTable(1)
    undo = Engagement(user_id=1, post_id=5, author_id=9, action="favorite", undo=True, at=T0)
    table.add(changes_of([undo]))
    assert min(table.drain()[0].totals) == 0
    table.add(changes_of([Engagement(user_id=1, post_id=5, author_id=9, action="favorite", at=T0)]))
    assert sum(table.drain()[0].totals) == 0
