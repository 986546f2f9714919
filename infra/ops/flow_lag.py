"""Wait until the flows have processed all published messages."""

import time
from collections.abc import Callable, Mapping

from infra.ports.kafka_admin import CommittedOffsets, ends_of
from infra.ports.kafka_config import FLOW_GROUPS, group
from infra.ports.settings import Settings
from infra.ports.topics import INPUTS
from infra.terminal.progress import ProgressReport

POLL_S = 0.2


def wait_for_flows(
    settings: Settings, delivered: Mapping[tuple[str, int], int], report: ProgressReport, check: Callable[[], None]
) -> None:
    """Wait until every flow has processed the published messages, and the messages that other flows derive from them.

    Args:
        settings: address of Kafka.
        delivered: the offset after the last published message, by topic and partition.
        report: shows the progress of each flow.
        check: called several times a second; an exception that it raises ends the wait.

    """
    for flow, topics in FLOW_GROUPS.items():
        with report.step(f"wait for {flow}") as advance:
            ends = {part: end for part, end in delivered.items() if part[0] in topics}
            ends |= ends_of(settings, [topic for topic in topics if topic not in INPUTS])
            with CommittedOffsets(settings, group(settings, flow)) as committed:
                behind = at_first = committed.lag(ends)
                while behind:
                    advance(at_first - behind, at_first)
                    check()
                    time.sleep(POLL_S)
                    behind = committed.lag(ends)
