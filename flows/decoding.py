"""Decode messages to events; an invalid message becomes a dead letter with its bytes, its position and the reason."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from confluent_kafka import Message

from flows.sources import Batch
from infra.ports.clock import Clock, now_ms
from infra.ports.producer import Record
from infra.ports.settings import Settings
from thunder_ingest.events import Event, Refused, decode
from thunder_ingest.events.dead_letters import dead_letter


class Decoded(NamedTuple):
    """A decoded batch: its events, the message of each event, and the dead letters of refused messages."""

    batch: Batch
    events: list[Any]
    messages: Sequence[Message]
    refused: list[Record]


class Decoder:
    """Decodes and validates batches; advances the clock to the newest event."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._tolerance_ms = settings.future_tolerance_ms
        self._clock = clock

    def __call__(self, batch: Batch) -> Decoded:
        """Return the events and dead letters of a batch, both in its order."""
        events: list[Event] = []
        messages: list[Message] = []
        refused: list[Record] = []
        topic = batch.topic
        latest_ms = now_ms() + self._tolerance_ms
        for message in batch.messages:
            try:
                event = decode(topic, message.value())
                if event.at > latest_ms:
                    raise Refused(f"`at` is {(event.at - latest_ms) / 1000:,.0f} s too far in the future - at `$.at`")
            except Refused as reason:
                refused.append(dead_letter(message, reason))
            else:
                events.append(event)
                messages.append(message)
        if events:
            self._clock.observe(max([event.at for event in events]))
        return Decoded(batch, events, messages, refused)
