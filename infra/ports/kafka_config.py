"""Options of Kafka clients, and the names of consumer groups."""

import logging
from typing import Any, Final

from confluent_kafka import KafkaError

from infra.ports.outage import outage
from infra.ports.settings import Settings

log = logging.getLogger(__name__)

FLOW_GROUPS: Final = {
    "flows.posts": ("posts",),
    "flows.engagements": ("engagements", "social-graph"),
    "flows.embeddings": ("thunder-posts",),
}
"""The topics that each flow reads; its consumer group is `group(settings, flow)`."""
FETCH_WAIT_MS: Final = 100
"""Longest time in ms for which a broker holds a fetch request back while a partition has no new message."""
_UNREACHABLE: Final = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TRANSPORT,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
}


def group(settings: Settings, name: str) -> str:
    """Return the consumer group of a flow (`flows.posts`) or of the workers (`feed-worker`)."""
    return f"{settings.group_prefix}.{name}"


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

    # not for producers: a producer notices the end of an outage only at its next use
    def on_error(error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            outage("Kafka", settings.kafka).begins(error.str())
        else:
            common["error_cb"](error)

    return {
        "group.id": group_id,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": fetch_wait_ms,
        "queued.max.messages.kbytes": 16_384,
        "session.timeout.ms": settings.session_timeout_ms,
        "heartbeat.interval.ms": settings.session_timeout_ms // 4,
        **common,
        "error_cb": on_error,
    }


def producer_config(settings: Settings) -> dict[str, Any]:
    """Return the options of an idempotent producer that retries a message without limit."""
    return {
        "enable.idempotence": True,
        "message.timeout.ms": 0,
        "message.max.bytes": 4_000_000,
        "linger.ms": 2,
        "compression.type": "lz4",
        **client_config(settings),
    }
