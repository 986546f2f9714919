import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.ops.replay.sent_messages import OffsetRuns, SentMessages
from infra.ports.kafka_admin import ends_of
from infra.ports.producer import KafkaProducer, Record
from infra.ports.settings import Settings


@given(st.sets(st.integers(0, 200), min_size=1))
def test_runs_hold_exactly_the_added_offsets(offsets: set[int]) -> None:
    runs = OffsetRuns()
    for offset in sorted(offsets):
        runs.add(offset)
    assert {offset for offset in range(-1, 203) if offset in runs} == offsets
    assert len(runs) == len(offsets)
    assert runs.end == max(offsets) + 1


@pytest.mark.embedded
def test_the_messages_of_two_producers_are_distinguished(servers: Settings) -> None:
    sent = SentMessages()
    producer, other = KafkaProducer(servers, on_delivered=sent.add), KafkaProducer(servers)
    before = ends_of(servers, ["engagements"])
    for each, value in ((producer, b"first"), (other, b"another"), (producer, b"second")):
        each.send(Record("engagements", b"1", value))
        each.flush()
    ((topic, partition),) = sent.ends
    first = before.get((topic, partition), 0)
    assert len(sent) == 2
    assert sent.ends == {(topic, partition): first + 3}
    assert [(topic, partition, first + number) in sent for number in range(4)] == [True, False, True, False]
