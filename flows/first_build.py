"""The first build of the users' state: it ends, and the state counts as whole, once the flow has read its log.

A new deployment has no mark in its Redis, and neither has one whose Redis was emptied. They differ in Kafka: in the
first the flow has committed nothing. It then begins a build, and sets the mark after it has committed the messages that
were in the log at that time. In the second only `foryou rebuild users` sets the mark.

A partition counts if the flow has read it from its first message on, as far as the log still has it: a flow that
resumes later in the log, whose Redis was emptied, must not end a build.
"""

import json
import logging
import time
import uuid
from collections.abc import Mapping
from typing import Final

from confluent_kafka import Consumer, TopicPartition

from infra.ports.consumer import close_soon, partitions_of, watermarks
from infra.ports.errors import BrokerUnreachable
from infra.ports.kafka_admin import lag
from infra.ports.kafka_config import FLOW_GROUPS, consumer_config, group
from infra.ports.redis import Client
from infra.ports.settings import Settings
from thunder_ingest.users.register import UserRegister

log = logging.getLogger(__name__)

FLOW: Final = "flows.engagements"
_TOPICS: Final = FLOW_GROUPS[FLOW]
CHECK_S: Final = 1.0
_FIRST: Final = b"first:"
"""The start of the names of fields that hold the position before the first batch of a partition."""


class FirstBuild:
    """The part of one process in the first build; does nothing once the mark exists. For one thread.

    Args:
        settings: addresses.
        client: of Redis.

    """

    def __init__(self, settings: Settings, client: Client) -> None:
        self._settings, self._register = settings, UserRegister(client)
        self._noted = set[str]()
        self._checked_s = time.monotonic()
        self._is_open = self._begin()

    def note(self, part: str, offset: int) -> None:
        """Record that a partition was read from a position on; raises redis.RedisError."""
        if self._is_open and part not in self._noted:
            self._register.note_build(f"first:{part}", str(offset))
            self._noted.add(part)

    def check(self) -> None:
        """End the build if the log was read; call it often. Raises redis.RedisError."""
        if not self._is_open or time.monotonic() - self._checked_s < CHECK_S:
            return
        self._checked_s = time.monotonic()
        fields = self._register.build()
        if b"bounds" not in fields:  # it has ended, or was lost, or `foryou rebuild users` has replaced it
            self._is_open = False
        elif self._is_read(fields):
            self._is_open = False
            if self._register.end_build(fields[b"id"].decode()):
                log.info("the users' state is whole: the log was read up to its end")

    def _begin(self) -> bool:
        """Begin the build of a new deployment; True if a build is open."""
        if self._register.mark() is not None:
            return False
        if fields := self._register.build():
            return b"bounds" in fields
        parts = [(topic, part) for topic, some in partitions_of(self._settings, _TOPICS).items() for part in some]
        if self._has_committed(parts):
            log.error(
                "the users' state is missing in Redis, though this flow has written it: requests fail until "
                "`foryou rebuild users` has read the log"
            )
            return False
        bounds = {f"{topic}-{part}": self._bounds(topic, part) for topic, part in parts}
        self._register.begin_build(uuid.uuid4().hex, {"bounds": json.dumps(bounds)})
        return True

    def _has_committed(self, parts: list[tuple[str, int]]) -> bool:
        return lag(self._settings, FLOW, dict.fromkeys(parts, 1)) < len(parts)

    def _bounds(self, topic: str, part: int) -> tuple[int, int]:
        consumer = Consumer(consumer_config(self._settings, group(self._settings, "ends")))
        try:
            return watermarks(consumer, TopicPartition(topic, part))
        finally:
            close_soon(consumer)

    def _is_read(self, fields: Mapping[bytes, bytes]) -> bool:
        """True if each partition was read from its start to the end that the build noted."""
        ends: dict[tuple[str, int], int] = {}
        try:
            for part, (low, high) in json.loads(fields[b"bounds"]).items():
                if high > low:
                    topic, _, number = part.rpartition("-")
                    ends[topic, int(number)] = high
                    first = int(fields.get(_FIRST + part.encode(), high))
                    if first > low and first > self._bounds(topic, int(number))[0]:
                        return False
            return not lag(self._settings, FLOW, ends)
        except BrokerUnreachable:
            return False
