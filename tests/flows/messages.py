"""Batches like those of the Kafka source."""

from confluent_kafka import Message

from flows.sources import Batch
from thunder_ingest.events import Event, encode


def batch(topic: str, *values: Event | bytes | None, start: int = 0, partition: int = 0) -> Batch:
    """Consecutive messages of a partition, from events or raw bytes."""
    raws = [encode(value) if value is not None and not isinstance(value, bytes) else value for value in values]
    return Batch(
        topic,
        partition,
        [
            Message(topic=topic, partition=partition, offset=start + index, key=b"key", value=raw)
            for index, raw in enumerate(raws)
        ],
    )
