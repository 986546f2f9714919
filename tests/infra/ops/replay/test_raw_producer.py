import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.ops.replay.raw_producer import RawProducer, Runs
from infra.ports.kafka_admin import ends_of
from infra.ports.settings import Settings


@given(st.sets(st.integers(0, 200), min_size=1))
def test_runs_hold_exactly_the_offsets_that_were_added(offsets: set[int]) -> None:
    runs = Runs()
    for offset in sorted(offsets):
        runs.add(offset)
    assert {offset for offset in range(-1, 203) if offset in runs} == offsets
    assert len(runs) == len(offsets)
    assert runs.end == max(offsets) + 1


@pytest.mark.embedded
def test_what_was_delivered_is_counted_and_recognised(servers: Settings) -> None:
    producer, other = RawProducer(servers), RawProducer(servers)
    before = ends_of(servers, ["engagements"])
    producer.send("engagements", b"1", b"first")
    producer.flush()
    other.send("engagements", b"1", b"not ours")
    other.flush()
    producer.send("engagements", b"1", b"second")
    producer.flush()
    ((topic, partition),) = producer.ends
    first = before.get((topic, partition), 0)
    assert producer.delivered == 2
    assert producer.ends == {(topic, partition): first + 3}
    assert [producer.is_own(topic, partition, first + number) for number in range(4)] == [True, False, True, False]


@pytest.mark.embedded
def test_a_message_that_no_broker_takes_is_counted_with_the_reason(servers: Settings) -> None:
    producer = RawProducer(servers)
    producer.send("posts", b"1", b"x" * 5_000_000)
    producer.flush()
    assert producer.delivered == 0
    assert [(reason.partition(":")[0], count) for reason, count in producer.refused.items()] == [("posts", 1)]
