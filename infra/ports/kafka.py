"""The port to Kafka: connection options, waiting for a broker that is away, delivery that is checked.

Imports nothing of the house but the settings, so that flows and workers may use it.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from infra.ports.errors import ForYouError
from infra.ports.outage import outage
from infra.ports.settings import Settings

log = logging.getLogger(__name__)

Headers: TypeAlias = list[tuple[str, bytes]]

FLOW_GROUPS = {
    "flows.posts": ("posts",),
    "flows.engagements": ("engagements", "social-graph"),
    "flows.embeddings": ("thunder-posts",),
}
"""The flows and the topics that each reads; its consumer group is `group(settings, flow)`."""


class BrokerUnreachable(ForYouError, ConnectionError):
    """No broker answers at the address of the settings."""


class TopicMissing(ForYouError, LookupError):
    """A topic that is needed does not exist."""


class DeliveryFailed(ForYouError, RuntimeError):
    """The broker refused a message for good."""


class Record(NamedTuple):
    """A message to be written."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers | None = None


def group(settings: Settings, name: str) -> str:
    """The consumer group of a flow or of the workers."""
    return f"{settings.group_prefix}.{name}"


_AWAY = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT}


def options(settings: Settings) -> dict[str, Any]:
    """What every client of the broker is given; SASL and TLS pass through from the settings."""

    def on_error(error: KafkaError) -> None:
        if error.code() not in _AWAY:
            log.error("Kafka at %s: %s", settings.kafka, error.str())

    return {
        "bootstrap.servers": settings.kafka,
        "error_cb": on_error,
        "log_level": 2,  # what matters comes through error_cb
        "reconnect.backoff.max.ms": 1_000,
        **settings.kafka_options,
    }


def consumer_config(settings: Settings, group_id: str) -> dict[str, Any]:
    """Options of a consumer that commits by hand, starts at the earliest message, and says that a broker is away."""
    common = options(settings)

    # a producer is not given this: it hears of an outage only when it is next used, which may be long after
    def on_error(error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            outage("Kafka", settings.kafka).begins(error.str())
        else:
            common["error_cb"](error)

    return {
        "group.id": group_id,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 50,
        "queued.max.messages.kbytes": 16_384,
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": settings.session_timeout_ms // 4,
        **common,
        "error_cb": on_error,
    }


def producer_config(settings: Settings) -> dict[str, Any]:
    """Options of a producer that neither loses nor doubles nor gives up on a message."""
    return {
        "enable.idempotence": True,
        "message.timeout.ms": 0,
        "message.max.bytes": 4_000_000,
        "linger.ms": 2,
        "compression.type": "lz4",
        **options(settings),
    }


class Publisher:
    """A producer whose failures cannot be overlooked: `flush` returns when all is delivered, or raises."""

    def __init__(self, settings: Settings, **overrides: Any) -> None:
        self._outage = outage("Kafka", settings.kafka)
        self._failed: list[KafkaError] = []
        # successes need no callback: it would cost a quarter of the throughput
        extra = {"on_delivery": self._on_failure, "delivery.report.only.error": True}
        self._producer = Producer(producer_config(settings) | extra | overrides)

    def publish(self, records: Iterable[Record], stopping: Callable[[], bool] = lambda: False) -> None:
        """Hand records over; where the producer's queue is full, waits and raises like `flush`."""
        produce = self._producer.produce
        for topic, key, value, headers in records:
            while True:
                try:
                    if headers:
                        produce(topic, value, key, headers=[*headers])
                    else:  # an empty list would cost more than all the rest
                        produce(topic, value, key)
                    break
                except BufferError:
                    self.flush(stopping)

    def flush(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Wait until everything handed over is delivered, however long the broker is away.

        Raises:
            DeliveryFailed: a message was refused for good, or `stopping` became true first.

        """
        while remaining := self._producer.flush(1.0):
            self._outage.begins(f"{remaining} messages wait")
            if stopping():
                raise DeliveryFailed(f"stopped while {remaining} messages were undelivered; they will be written again")
        if self._failed:
            raise DeliveryFailed("; ".join(sorted({error.str() for error in self._failed})))
        self._outage.ends()

    def _on_failure(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed.append(error)


def partitions_of(settings: Settings, topics: Iterable[str], timeout_s: float = 5.0) -> dict[str, list[int]]:
    """The partitions of topics, asked once.

    Raises:
        BrokerUnreachable: naming the address.
        TopicMissing: naming the topics and what creates them.

    """
    probe = Consumer(consumer_config(settings, group(settings, "probe")))
    try:
        known = probe.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        reason = error.args[0].str()
        raise BrokerUnreachable(
            f"no Kafka broker answers at {settings.kafka} ({reason}): start one with `foryou up`, or name yours in "
            "FORYOU_KAFKA"
        ) from None
    finally:
        probe.close()
    missing = [topic for topic in topics if topic not in known or not known[topic].partitions]
    if missing:
        raise TopicMissing(
            f"Kafka at {settings.kafka} has no topic {', '.join(missing)}: create them with `foryou topics --create`"
        )
    return {topic: sorted(known[topic].partitions) for topic in topics}


def wait_for_topics(settings: Settings, topics: Iterable[str], stopping: threading.Event) -> dict[str, list[int]]:
    """The partitions of topics, waiting as long as no broker answers; raises `TopicMissing` like `partitions_of`."""
    topics = tuple(topics)
    away = outage("Kafka", settings.kafka)
    while not stopping.is_set():
        try:
            found = partitions_of(settings, topics)
        except BrokerUnreachable as error:
            away.begins(error)
            stopping.wait(1.0)
        else:
            away.ends()
            return found
    raise SystemExit(0)


def watermarks(consumer: Consumer, part: TopicPartition, timeout_s: float = 60.0) -> tuple[int, int]:
    """The first offset and the one after the last, waiting while the broker has only just come back.

    Raises:
        BrokerUnreachable: after `timeout_s`.

    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            low, high = consumer.get_watermark_offsets(part, timeout=5)
        except KafkaException as error:
            if time.monotonic() > deadline:
                raise BrokerUnreachable(f"Kafka does not tell where {part.topic} ends: {error.args[0].str()}") from None
            time.sleep(0.2)
        else:
            return low, high


def exit_now(reason: object) -> None:
    """End this process at once: whatever was not finished is done again from the log by the next one."""
    log.error("%s", reason)
    logging.shutdown()
    os._exit(1)
