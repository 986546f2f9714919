"""Waiting until the flows have finished what was published."""

import time
from collections.abc import Callable, Mapping

from infra.ports.kafka import FLOW_GROUPS
from infra.ports.kafka_admin import admin, ends_of, lag
from infra.ports.settings import Settings
from infra.ports.topics import INPUTS
from infra.terminal.progress import Report

POLL_S = 0.2


def wait_for_flows(
    settings: Settings, delivered: Mapping[tuple[str, int], int], report: Report, check: Callable[[], None]
) -> None:
    """Wait until every flow is past what apps published, and what the flows in turn wrote because of it.

    Args:
        settings: where Kafka is.
        delivered: for each topic and partition the offset after the last message, as the producer was told.
        report: shows how far each flow is.
        check: called all the while; raises what should end the wait.

    """
    client = admin(settings)
    for flow, topics in FLOW_GROUPS.items():
        with report.step(f"{flow} catches up") as advance:
            ends = {part: end for part, end in delivered.items() if part[0] in topics}
            ends |= ends_of(settings, [topic for topic in topics if topic not in INPUTS])
            behind = at_first = lag(client, settings, flow, ends)
            while behind:
                advance(at_first - behind, at_first)
                check()
                time.sleep(POLL_S)
                behind = lag(client, settings, flow, ends)
