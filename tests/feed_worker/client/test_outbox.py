import threading

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


def test_reports_in_several_threads_never_lower_the_delivered_offset() -> None:
    outbox = Outbox(load(kafka="127.0.0.1:1"))

    class Interrupted(dict[tuple[str, int], int]):
        """A later report arrives in another thread while the first one reads the offset."""

        def get(self, key: tuple[str, int], default: int = 0) -> int:  # type: ignore[override]
            known = super().get(key, default)
            if not threads:
                threads.append(threading.Thread(target=outbox._on_delivered, args=(None, "posts", 0, 9)))
                threads[0].start()
                threads[0].join(0.2)
            return known

    threads = list[threading.Thread]()
    outbox._delivered = Interrupted()
    outbox._on_delivered(None, "posts", 0, 4)
    threads[0].join(30)
    assert outbox.delivered(0) == {("posts", 0): 10}
