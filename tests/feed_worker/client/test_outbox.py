import pytest
from confluent_kafka import KafkaError

from feed_worker.client import Undelivered
from feed_worker.client.outbox import Outbox
from infra.ports.producer import Record, Refusal
from infra.ports.settings import load


def test_a_refusal_of_the_broker_is_raised_once_and_later_flushes_succeed() -> None:
    outbox = Outbox(load(kafka="127.0.0.1:1"))
    outbox._producer.refusals.append(
        Refusal(Record("posts", b"1", b"{}"), KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    )
    with pytest.raises(Undelivered, match="refused 1 messages"):
        outbox.delivered(0)
    assert outbox.delivered(0) == {}
