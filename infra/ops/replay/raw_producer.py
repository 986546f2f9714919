"""A producer of raw messages that remembers, compactly, where each partition's messages of its own ended up."""

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from infra.ports.kafka import producer_config
from infra.ports.kafka_admin import Offsets
from infra.ports.outage import outage
from infra.ports.settings import Settings

STALLED_S = 5.0


class Runs:
    """A set of ascending offsets, kept as runs of consecutive ones."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, offset: int) -> None:
        """Add an offset above all those already there."""
        if self._ends and self._ends[-1] == offset:
            self._ends[-1] = offset + 1
        else:
            self._starts.append(offset)
            self._ends.append(offset + 1)

    def __contains__(self, offset: int) -> bool:
        run = bisect_right(self._starts, offset) - 1
        return run >= 0 and offset < self._ends[run]

    def __len__(self) -> int:
        return sum(self._ends) - sum(self._starts)

    @property
    def end(self) -> int:
        """The offset after the last."""
        return self._ends[-1]


class RawProducer:
    """Delivers bytes as they are; waits while the broker is away, and says so.

    `check` is called whenever it waits, a few times a second; it may raise.
    """

    def __init__(self, settings: Settings, check: Callable[[], None] = lambda: None) -> None:
        # many small messages: larger batches than a feed request would want
        options = producer_config(settings) | {"linger.ms": 20, "batch.num.messages": 10_000}
        self._producer = Producer(options | {"on_delivery": self._on_delivery})
        self._check, self._outage = check, outage("Kafka", settings.kafka)
        self._progress_at = time.monotonic()
        self._runs: dict[tuple[str, int], Runs] = {}
        self.refused: Counter[str] = Counter()
        """Messages that Kafka would not take, by topic and reason."""

    def send(self, topic: str, key: bytes | None, value: bytes) -> None:
        """Hand a message over; waits while the queue is full."""
        while True:
            try:
                self._producer.produce(topic, key=key, value=value)
            except BufferError:
                self._producer.poll(0.1)
                self._wait_on()
            except KafkaException as error:  # larger than the client allows
                self.refused[f"{topic}: {error.args[0].str()}"] += 1
                return
            else:
                return

    def poll(self, seconds: float = 0.0) -> None:
        """Take note of deliveries, for up to `seconds`."""
        self._producer.poll(seconds)

    def flush(self) -> None:
        """Wait until every message is delivered or refused."""
        self._progress_at = time.monotonic()
        while self._producer.flush(0.2):
            self._wait_on()
        self._outage.ends()

    def _wait_on(self) -> None:
        self._check()
        if time.monotonic() - self._progress_at > STALLED_S:
            self._outage.begins("it takes no messages")

    @property
    def delivered(self) -> int:
        """How many messages Kafka has taken."""
        return sum(map(len, self._runs.values()))

    @property
    def ends(self) -> Offsets:
        """For each topic and partition the offset after the last message."""
        return {part: runs.end for part, runs in self._runs.items()}

    def is_own(self, topic: str, partition: int, offset: int) -> bool:
        """Whether the message there is one of this producer's."""
        return offset in self._runs.get((topic, partition), ())

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        self._progress_at = time.monotonic()
        part = (message.topic() or "", message.partition() or 0)
        if error is not None:
            self.refused[f"{part[0]}: {error.str()}"] += 1
            return
        offset = message.offset()
        runs = self._runs.get(part)
        if runs is None:
            runs = self._runs[part] = Runs()
        runs.add(offset if offset is not None else 0)
