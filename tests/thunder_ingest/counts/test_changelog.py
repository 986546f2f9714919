"""The changelog of a shard on a compacted topic: exact, and bounded by the state."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.thunder_ingest.counts.test_table import AGE_MS, T0, acted, totals, viewed
from thunder_ingest.counts import changelog
from thunder_ingest.counts.changelog import Changelog, unpack_changes
from thunder_ingest.counts.table import CountTable, changes_of

Topic = dict[bytes, bytes]


class Shard:
    """A shard, and the compacted topic of its changelog."""

    def __init__(self, topic: Topic, run: str) -> None:
        self.topic, self.table, self.changelog = topic, CountTable(AGE_MS), Changelog("00", run)
        for key, value in topic.items():
            changes = unpack_changes(value)
            self.changelog.read(key, len(changes))
            self.table.restore(changes)
        self.table.restored()

    def write(self, now_ms: int = T0, fail_after: int = 2**31) -> None:
        """Write the changes; a crash loses the records after some."""
        drained = self.table.drain(now_ms)
        records = [*self.changelog.records(drained.changes, self.table.voices, self.table.all_changes)]
        for key, value in records[:fail_after]:
            if value is None:
                self.topic.pop(key, None)
            else:
                self.topic[key] = value


def rows(topic: Topic) -> int:
    return sum(len(unpack_changes(value)) for value in topic.values())


@given(
    st.lists(st.lists(st.integers(1, 300), max_size=60), min_size=1, max_size=20),
    st.randoms(use_true_random=False),
)
def test_a_restored_table_has_all_that_was_written_whenever_processes_crash(
    batches: list[list[int]], random: random.Random
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"SEGMENT_ROWS": 4, "WHOLE_ROWS": 16, "MIN_ROWS": 32}.items():
            patch.setattr(changelog, name, value)
        topic, runs, whole = Topic(), 0, CountTable(AGE_MS)
        shard = Shard(topic, "0")
        for batch in batches:
            events = changes_of([*acted(batch), *viewed(*batch, at=T0 + len(batch))])
            whole.add(events, T0)
            shard.table.add(events, T0)
            if random.randrange(4) == 0:  # crashed before the epoch was committed: the events come again
                shard.write(fail_after=random.randrange(9))
                runs += 1
                shard = Shard(topic, str(runs))
                shard.table.add(events, T0)
            shard.write()
        assert totals(Shard(topic, "last").table) == totals(whole)


def test_a_post_that_changes_every_second_takes_no_more_segments_than_its_state_needs() -> None:
    topic = Topic()
    shard = Shard(topic, "0")
    for second in range(20_000):
        shard.table.add(changes_of(acted([second % 5 + 1], at=T0 + second, undo=second % 2 == 0)), T0)
        shard.write()
    assert shard.table.voices == 5
    assert rows(topic) <= changelog.MIN_ROWS + 10
    assert len(topic) <= changelog.MIN_ROWS // changelog.SEGMENT_ROWS + 4


def test_forgotten_posts_leave_the_changelog() -> None:
    topic = Topic()
    shard = Shard(topic, "0")
    for second in range(300):
        at = T0 + second * AGE_MS
        shard.table.add(changes_of(viewed(*range(second * 100 + 1, second * 100 + 101), at=at)), at)
        shard.write(at)
    assert rows(topic) <= changelog.MIN_ROWS + 500
