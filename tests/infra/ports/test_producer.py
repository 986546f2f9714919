import threading
from itertools import count

import pytest

from infra.ports.errors import DeliveryFailed, MessageTooLarge, StopRequested
from infra.ports.producer import KafkaProducer, Record, check_stop
from infra.ports.settings import Settings, load

TOO_LARGE = Record("posts", b"1", b"x" * 5_000_000)
SMALL = Record("training-examples", b"1", b"small")
UNREACHABLE = "127.0.0.1:1"


def test_a_full_queue_refuses_an_offer_and_makes_send_wait_until_the_check_raises() -> None:
    stopping = threading.Event()
    options = {"queue.buffering.max.messages": 1}
    producer = KafkaProducer(load(kafka=UNREACHABLE), check=check_stop(stopping), options=options)
    assert producer.offer(SMALL)
    assert not producer.offer(SMALL)
    stopping.set()
    with pytest.raises(StopRequested, match="they will be written again"):
        producer.send(SMALL)
    with pytest.raises(StopRequested):
        producer.publish([SMALL])
    with pytest.raises(StopRequested):
        producer.flush()


def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.ports.producer.STALLED_S", 0.0)
    checks = count()

    def check() -> None:
        if next(checks) == 3:
            raise StopRequested

    producer = KafkaProducer(load(kafka="127.0.0.1:2"), check=check)
    producer.send(SMALL)
    with pytest.raises(StopRequested):
        producer.flush()
    assert [record.getMessage() for record in caplog.records] == [
        "Kafka (writes) at 127.0.0.1:2 accepts no records (1 messages wait); retrying"
    ]


@pytest.mark.embedded
def test_a_delivery_is_reported_with_the_token_and_the_offset(servers: Settings) -> None:
    reports: list[tuple[object, str, int, int]] = []
    producer = KafkaProducer(servers, on_delivered=lambda *report: reports.append(report))
    producer.send(SMALL, "token")
    producer.publish([SMALL])
    producer.flush()
    (first, second) = reports
    assert first[:2] == ("token", "training-examples")
    assert second == (None, *first[1:3], first[3] + 1)


@pytest.mark.embedded
def test_a_refused_message_is_kept_with_its_reason_and_token(servers: Settings) -> None:
    producer = KafkaProducer(servers)
    producer.send(TOO_LARGE, "token")
    producer.send(SMALL)
    producer.drain()
    assert [(refusal.topic, refusal.token) for refusal in producer.refusals] == [("posts", "token")]
    with pytest.raises(DeliveryFailed, match=r"^posts: .*too large"):
        producer.flush()
    assert len(producer.take_refusals()) == 1
    producer.flush()
    with pytest.raises(MessageTooLarge):
        producer.offer(TOO_LARGE)
