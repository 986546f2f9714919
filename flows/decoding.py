"""Decode messages to events; an invalid message becomes a dead letter with its bytes, its position and the reason."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from confluent_kafka import Message

from flows.sources import Batch
from infra.ports.clock import CLOCK_WINDOW, Clock, now_ms
from infra.ports.consumer import arrived_ms
from infra.ports.producer import Record
from infra.ports.settings import Settings
from thunder_ingest.events import Event, Refused, count_from_arrival, decode_all
from thunder_ingest.events.dead_letters import dead_letter


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
        tolerance_ms, read_ms = self._tolerance_ms, now_ms()
        found = decode_all(batch.topic, [message.value() for message in batch.messages])
        for message, event in zip(batch.messages, found, strict=True):
            try:
                if (error := message.error()) is not None:
                    raise Refused(f"the messages from this offset on cannot be read: {error.str()}")
                if isinstance(event, Refused):
                    raise event
                at_ms = event.at
                if at_ms > message.timestamp()[1] or at_ms > read_ms:  # else it does not lie ahead of any arrival
                    count_from_arrival(event, arrived_ms(message, at_ms, tolerance_ms, read_ms), tolerance_ms)
            except Refused as reason:
                refused.append(dead_letter(message, reason))
            else:
                events.append(event)
                messages.append(message)
        self._clock.observe([event.at for event in events[-CLOCK_WINDOW:]])
        return Decoded(batch, events, messages, refused)
