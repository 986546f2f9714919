"""Batches like those of the Kafka source."""

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, TIMESTAMP_NOT_AVAILABLE

from flows.sources import Batch
from infra.ports.message import MessageCopy
from thunder_ingest.events import Event, encode


def batch(
    topic: str, *values: Event | bytes | None, start: int = 0, partition: int = 0, arrived_ms: int | None = None
) -> Batch:
    """Consecutive messages of a partition, from events or raw bytes, with the broker's timestamp if one is given."""
    timestamp = (TIMESTAMP_NOT_AVAILABLE, 0) if arrived_ms is None else (TIMESTAMP_LOG_APPEND_TIME, arrived_ms)
    raws = [encode(value) if value is not None and not isinstance(value, bytes) else value for value in values]
    return Batch(
        topic,
        partition,
        [
            MessageCopy(
                topic=topic, partition=partition, offset=start + index, key=b"key", value=raw, timestamp=timestamp
            )
            for index, raw in enumerate(raws)
        ],
    )
