"""Counters and gauges of this process, for every package; `infra.ports.endpoints` exports them for Prometheus.

They are plain objects, since the client of an app imports the ports and has no Prometheus client.
"""

import threading
from collections import Counter
from typing import Final, Literal


class ProcessMetric:
    """A metric with one label. Any thread may call.

    Args:
        name: in Prometheus, without `_total`.
        description: a noun phrase.
        label: name of the label.
        kind: `counter` or `gauge`.

    """

    def __init__(self, name: str, description: str, label: str, kind: Literal["counter", "gauge"] = "counter") -> None:
        self.name, self.description, self.label, self.kind = name, description, label, kind
        self._values: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, label: str, number: int = 1) -> None:
        """Increase a counter."""
        with self._lock:
            self._values[label] += number

    def set(self, label: str, value: int) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[label] = value

    def values(self) -> dict[str, int]:
        """Return the value of each label."""
        with self._lock:
            return dict(self._values)


REFUSED_RECORDS: Final = ProcessMetric(
    "foryou_records_refused", "Records that Kafka refused for good and that were set aside", "topic"
)
SKIPPED_OFFSETS: Final = ProcessMetric(
    "foryou_offsets_skipped", "Offsets that were removed before this process had read them", "partition"
)
KAFKA_ERRORS: Final = ProcessMetric("foryou_kafka_errors", "Errors of Kafka that this process survived", "code")
DROPPED_ENTRIES: Final = ProcessMetric(
    "foryou_user_entries_dropped", "Oldest follows, blocks, mutes … of users beyond a bound, by kind", "kind"
)
BROKEN_RECORDS: Final = ProcessMetric(
    "foryou_broken_records", "Records of derived topics that cannot be read and were skipped", "topic"
)
FLOW_LAG: Final = ProcessMetric("foryou_flow_lag", "Messages that a flow has not read", "partition", "gauge")

PROCESS_METRICS: Final = (REFUSED_RECORDS, SKIPPED_OFFSETS, KAFKA_ERRORS, DROPPED_ENTRIES, BROKEN_RECORDS, FLOW_LAG)
