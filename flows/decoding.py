"""Decode messages to events; an invalid message becomes a dead letter with its bytes, its position and the reason."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message

from flows.sources import Batch
from infra.ports.clock import CLOCK_WINDOW, Clock, now_ms
from infra.ports.consumer import arrived_ms
from infra.ports.producer import Record
from infra.ports.settings import Settings
from thunder_ingest.events import Event, Refused, count_from_arrival, decode
from thunder_ingest.events.dead_letters import dead_letter

BROKERS_DIFFER_MS: Final = 10_000
"""The largest step back of the timestamps in a batch, where another broker with another clock took over."""


class Decoded(NamedTuple):
    """A decoded batch: its events, the message of each event, and the dead letters of refused messages."""

    batch: Batch
    events: list[Any]
    messages: Sequence[Message]
    refused: list[Record]


class Decoder:
    """Decodes and validates batches; the clock observes their times.

    The time of an event counts up to the arrival of its message (`count_from_arrival`).
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._tolerance_ms = settings.future_tolerance_ms
        self._clock = clock

    def __call__(self, batch: Batch) -> Decoded:
        """Return the events and dead letters of a batch, both in its order."""
        events: list[Event] = []
        messages: list[Message] = []
        refused: list[Record] = []
        topic, tolerance_ms, read_ms = batch.topic, self._tolerance_ms, now_ms()
        in_time_ms = _first_arrival_ms(batch.messages)
        for message in batch.messages:
            try:
                if (error := message.error()) is not None:
                    raise Refused(f"the messages from this offset on cannot be read: {error.str()}")
                event = decode(topic, message.value())
                if event.at > in_time_ms:
                    arrival_ms = arrived_ms(message, event.at, tolerance_ms, read_ms)
                    count_from_arrival(event, arrival_ms, tolerance_ms)
            except Refused as reason:
                refused.append(dead_letter(message, reason))
            else:
                events.append(event)
                messages.append(message)
        self._clock.observe([event.at for event in events[-CLOCK_WINDOW:]])
        return Decoded(batch, events, messages, refused)


def _first_arrival_ms(messages: Sequence[Message]) -> int:
    """A time at which no message of a batch had arrived: a timestamp for each event would cost a fifth of its decoding.

    0 if the topic has the timestamps of producers, which follow no order.
    """
    ends = [message.timestamp() for message in (messages[0], messages[-1])] if messages else []
    if any(kind != TIMESTAMP_LOG_APPEND_TIME for kind, _ in ends):
        return 0
    return min((timestamp_ms for _, timestamp_ms in ends), default=0) - BROKERS_DIFFER_MS
