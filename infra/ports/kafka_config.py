"""Options of Kafka clients, and the names of consumer groups."""

import logging
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from infra.ports.outage import Outage, outage
from infra.ports.settings import Settings

log = logging.getLogger(__name__)

FLOW_GROUPS: Final = {
    "flows.posts": ("posts",),
    "flows.engagements": ("engagements", "social-graph"),
    "flows.embeddings": ("thunder-posts",),
}
"""The topics that each flow reads; its consumer group is `group(settings, flow)`."""
MAX_RECORD_BYTES: Final = 4_000_000
"""The largest message that a producer accepts, in bytes before compression."""
FETCH_WAIT_MS: Final = 100
"""Longest time in ms for which a broker holds a fetch request back while a partition has no new message."""
PROBE_TIMEOUT_S: Final = 2.0
_UNREACHABLE: Final = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
}


def group(settings: Settings, name: str) -> str:
    """Return the consumer group of a flow (`flows.posts`) or of the workers (`feed-worker`)."""
    return f"{settings.group_prefix}.{name}"


def alive_group(settings: Settings, flow: str) -> str:
    """Return the group in which a flow commits the time, epoch ms, as the offset of each of its partitions.

    The offsets of a flow without input do not change: only a time shows that it runs.
    """
    return f"{group(settings, flow)}.alive"


def kafka_outage(settings: Settings) -> Outage:
    """Return the outage of the brokers of the settings."""
    return outage("Kafka", settings.kafka)


def kafka_probe(settings: Settings) -> Callable[[], bool]:
    """Return a function that returns True if a broker answers; it takes PROBE_TIMEOUT_S at most."""

    def answers() -> bool:
        client = Producer(client_config(settings) | {"error_cb": lambda _: None})
        try:
            client.list_topics(timeout=PROBE_TIMEOUT_S)
        except KafkaException:
            return False
        return True

    return answers


def client_config(settings: Settings) -> dict[str, Any]:
    """Return the options of every Kafka client; SASL and TLS options come from the settings."""

    def on_error(error: KafkaError) -> None:
        if error.code() not in _UNREACHABLE:
            log.error("Kafka at %s: %s", settings.kafka, error.str())

    return {
        "bootstrap.servers": settings.kafka,
        "error_cb": on_error,
        "log_level": 2,  # error_cb receives the relevant errors
        "reconnect.backoff.max.ms": 1_000,
        **settings.kafka_options,
    }


def consumer_config(settings: Settings, group_id: str, fetch_wait_ms: int = FETCH_WAIT_MS) -> dict[str, Any]:
    """Return the options of a consumer that commits by hand, starts at the earliest message and reports an outage.

    Args:
        settings: address and further options of Kafka.
        group_id: consumer group.
        fetch_wait_ms: longest time for which the broker holds a fetch request back while there is no new message;
            a larger value costs an idle broker less CPU. Kafka ends the wait at a new message. The embedded broker
            looks for messages only after a half, three quarters and so on of the wait.

    """
    common = client_config(settings)

    # not for producers: a producer reports an outage once its messages wait
    def on_error(error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            kafka_outage(settings).begins(error.str(), kafka_probe(settings))
        else:
            common["error_cb"](error)

    return {
        **common,
        "group.id": group_id,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": fetch_wait_ms,
        "fetch.error.backoff.ms": 20,  # see MessageCheck: an unreadable batch is passed offset by offset
        "queued.max.messages.kbytes": 16_384,
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": settings.session_timeout_ms // 4,
        "error_cb": on_error,
    }


def producer_config(settings: Settings) -> dict[str, Any]:
    """Return the options of an idempotent producer that retries a message without limit."""
    return {
        "linger.ms": 2,
        # a broker that has lost the others holds a request for this long, also after their return; by default 30 s
        "request.timeout.ms": 10_000,
        "compression.type": "lz4",
        **client_config(settings),
        "enable.idempotence": True,
        "message.timeout.ms": 0,
        "message.max.bytes": MAX_RECORD_BYTES,
    }
