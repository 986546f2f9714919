import threading
from collections.abc import Callable, Iterable

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st

from infra.ports import record_writer
from infra.ports.error_table import KAFKA_RETRIES, Reaction, kafka_reaction
from infra.ports.errors import DeliveryFailed, StopRequested
from infra.ports.process_metrics import REFUSED_RECORDS
from infra.ports.producer import Record, Refusal, check_stop
from infra.ports.record_writer import RecordWriter
from infra.ports.settings import Settings, load
from infra.ports.topic_reader import scan
from tests.infra.ports.kafka_codes import ALL_CODES
from thunder_ingest.events import DeadLetter, pack, unpack_dead_letter
from thunder_ingest.events.dead_letters import substitute

POST = "thunder-posts"


class Broker:
    """A producer whose broker refuses records: `refusal` returns the code for a record, None to accept it."""

    def __init__(self, refusal: Callable[[Record], int | None]) -> None:
        self.log: list[Record] = []
        self._refusal, self._refused = refusal, list[Refusal]()

    def publish(self, records: Iterable[Record]) -> None:
        for record in records:
            if (code := self._refusal(record)) is None:
                self.log.append(record)
            else:
                self._refused.append(Refusal(record, KafkaError(code)))

    def drain(self) -> None:
        """Do nothing: `publish` has decided."""

    def take_refusals(self) -> list[Refusal]:
        refused, self._refused = self._refused, []
        return refused

    def newest(self) -> dict[bytes | None, bytes | None]:
        """The last value of each key."""
        return {record.key: record.value for record in self.log}


def writer(broker: Broker, monkeypatch: pytest.MonkeyPatch, stopping: threading.Event | None = None) -> RecordWriter:
    monkeypatch.setattr(record_writer, "RETRY_S", 0.0 if stopping is None else 60.0)
    monkeypatch.setattr(record_writer, "KafkaProducer", lambda *_, **__: broker)
    return RecordWriter(load(), check_stop(stopping or threading.Event()), substitute)


def refusing(code: int, times: int, value: bytes = b"bad") -> Broker:
    """A broker that refuses records with a value, a number of times."""
    left = [times]

    def refusal(record: Record) -> int | None:
        if record.value != value or not left[0]:
            return None
        left[0] -= 1
        return code

    return Broker(refusal)


@pytest.mark.parametrize("code", ALL_CODES)
def test_a_refused_record_has_the_outcome_that_the_table_names(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = refusing(code, times=3)
    tested = writer(broker, monkeypatch)
    tested.publish([Record("feeds-served", b"1", b"good"), Record("feeds-served", b"2", b"bad")])
    before = REFUSED_RECORDS.values().get("feeds-served", 0)
    match kafka_reaction(KafkaError(code)):
        case Reaction.END:
            with pytest.raises(DeliveryFailed, match=KafkaError(code).name()):
                tested.deliver()
        case Reaction.SKIP:
            tested.deliver()
            assert broker.newest() == {b"1": b"good"}
            assert REFUSED_RECORDS.values()["feeds-served"] == before + 1
        case _:
            tested.deliver()
            assert broker.newest() == {b"1": b"good", b"2": b"bad"}


def test_retries_of_an_unknown_error_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for times in (KAFKA_RETRIES, KAFKA_RETRIES + 1):
        tested = writer(refusing(KafkaError.UNKNOWN, times), monkeypatch)
        tested.publish([Record(POST, b"1", b"bad")])
        if times == KAFKA_RETRIES:
            tested.deliver()
        else:
            with pytest.raises(DeliveryFailed):
                tested.deliver()


def test_a_stop_ends_the_wait_between_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = threading.Event()
    stopping.set()
    tested = writer(refusing(KafkaError.NOT_ENOUGH_REPLICAS, 3), monkeypatch, stopping)
    tested.publish([Record(POST, b"1", b"bad")])
    with pytest.raises(StopRequested):
        tested.deliver()


@given(
    values=st.lists(st.tuples(st.sampled_from([b"1", b"2", b"3"]), st.binary(min_size=1, max_size=2)), max_size=12),
    draws=st.lists(st.sampled_from([None, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN]), max_size=20),
)
def test_the_newest_record_of_a_key_stays_the_last_one_through_refusals_that_pass(
    values: list[tuple[bytes, bytes]], draws: list[int | None]
) -> None:
    left = iter(draws)
    broker = Broker(lambda _: next(left, None))
    with pytest.MonkeyPatch.context() as monkeypatch:
        tested = writer(broker, monkeypatch)
        tested.publish([Record(POST, key, value) for key, value in values])
        tested.deliver()
    assert broker.newest() == dict(values)


def test_a_refusal_that_passes_repeats_no_other_record_of_a_topic_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: dict[bytes, list[int | None]] = {b"bad": [KafkaError.NOT_ENOUGH_REPLICAS] * 2}
    codes[b"broken"] = [KafkaError.INVALID_RECORD] * 9
    attempts = list[bytes]()

    def refusal(record: Record) -> int | None:
        attempts.append(record.value or b"")
        return (codes.get(record.value or b"") or [None]).pop()

    broker = Broker(refusal)
    tested = writer(broker, monkeypatch)
    tested.publish([Record("feeds-served", b"1", value) for value in (b"one", b"broken", b"bad", b"two")])
    tested.deliver()
    assert [record.value for record in broker.log] == [b"one", b"two", b"bad"]
    assert attempts.count(b"broken") == 1


def test_a_record_that_was_set_aside_is_not_written_again_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: dict[bytes, list[int | None]] = {b"bad": [KafkaError.NOT_ENOUGH_REPLICAS] * 2}
    codes[b"broken"] = [KafkaError.INVALID_RECORD] * 9
    broker = Broker(lambda record: (codes.get(record.value or b"") or [None]).pop())
    tested = writer(broker, monkeypatch)
    tested.publish([Record(POST, b"1", value) for value in (b"old", b"bad", b"broken", b"new")])
    tested.deliver()
    assert [record.value for record in broker.log] == [b"old", b"new", b"new", b"bad", b"new"]
    assert len(codes[b"broken"]) == 8


def test_a_post_that_cannot_be_written_becomes_a_tombstone(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = refusing(KafkaError.MSG_SIZE_TOO_LARGE, 1)
    tested = writer(broker, monkeypatch)
    tested.publish([Record(POST, b"1", b"old"), Record(POST, b"1", b"bad")])
    tested.deliver()
    assert broker.newest() == {b"1": None}


def test_no_tombstone_follows_a_newer_record_of_the_post(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = refusing(KafkaError.MSG_SIZE_TOO_LARGE, 1)
    tested = writer(broker, monkeypatch)
    tested.publish([Record(POST, b"1", b"bad"), Record(POST, b"1", b"new")])
    tested.deliver()
    assert broker.newest() == {b"1": b"new"}


def test_a_dead_letter_that_the_broker_refuses_is_cut_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = [50_000]
    broker = Broker(lambda record: KafkaError.MSG_SIZE_TOO_LARGE if len(record.value or b"") > limit[0] else None)
    letter = DeadLetter(topic="posts", partition=0, offset=1, at=1, reason="bad", value=b"x" * 900_000)
    for limit[0], kept in ((50_000, 10_000), (1_000, 0), (10, None)):
        broker.log.clear()
        tested = writer(broker, monkeypatch)
        tested.publish([Record("dead-letters", b"posts", pack(letter)), Record("dead-letters", b"posts", b"small")])
        tested.deliver()
        letters = [unpack_dead_letter(record.value or b"") for record in broker.log if record.value != b"small"]
        assert [(len(each.value or b""), each.value_bytes) for each in letters] == (
            [] if kept is None else [(kept, 900_000)]
        )


@pytest.mark.embedded
def test_records_after_one_that_is_too_large_are_delivered(servers: Settings) -> None:
    tested = RecordWriter(servers, lambda: None, substitute)
    tested.publish(
        [Record("feeds-served", b"a", b"x" * 5_000_000), Record("feeds-served", b"b", b"after one that is too large")]
    )
    tested.deliver()
    values = [message.value() for messages in scan(servers, ["feeds-served"]) for message in messages]
    assert b"after one that is too large" in values


class DeadProducer:
    """A producer after a fatal error."""

    def produce(self, *_: object, **__: object) -> None:
        raise KafkaException(KafkaError(KafkaError._FATAL, "fenced", fatal=True))

    def flush(self, _timeout_s: float) -> int:
        return 0

    def __len__(self) -> int:
        return 0


def test_a_producer_that_cannot_continue_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = RecordWriter(load(kafka="127.0.0.1:1"), lambda: None)
    monkeypatch.setattr(tested._producer, "_producer", DeadProducer())
    tested.publish([Record("posts", b"1", b"x")])
    with pytest.raises(DeliveryFailed, match="fenced"):
        tested.deliver()
