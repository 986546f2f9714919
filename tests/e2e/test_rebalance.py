"""Members of the workers' group that join and leave, on a broker whose rebalances take two rounds of messages.

The embedded broker accepts a commit during a rebalance; Kafka refuses it, and librdkafka then gives up all partitions.
"""

import os
import time

import numpy as np

from infra.ports.settings import Settings
from tests.e2e.conftest import eventually
from tests.feed_worker.serving.test_rebalance import Member, Requests, members

ROUNDS = 20 if os.environ.get("FORYOU_SOAK") else 4


def test_members_that_join_leave_the_partitions_that_stay_alone(settings: Settings) -> None:
    whole, waits_s, kept = settings.partitions, list[float](), 0
    with members(settings, 1) as (first,):
        assert eventually(lambda: len(first.partitions) == whole)
        requests = Requests(settings, "join")
        for _ in range(ROUNDS):
            time.sleep(1.0)
            revoked, since = len(first.revoked), len(requests.sent)
            with members(settings, 1) as (second,):
                assert eventually(lambda second=second: len(second.partitions) == whole // 2)  # type: ignore[misc]
                assert eventually(lambda: len(first.partitions) == whole - whole // 2)
                moved = set(first.revoked[revoked:])
                kept += len(moved) < whole
                assert eventually(lambda second=second: bool(second.answered))  # type: ignore[misc]
            assert eventually(lambda: len(first.partitions) == whole)
            waits_s += waits_of_others(requests, first, since, moved)
        requests.stop()
    print(  # noqa: T201
        f"{kept} of {ROUNDS} joins left partitions alone; their requests waited {1000 * np.median(waits_s):.0f} ms, "
        f"p99 {1000 * np.percentile(waits_s, 99):.0f} ms; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    assert kept > ROUNDS / 2


def waits_of_others(requests: Requests, member: Member, since: int, moved: set[tuple[str, int]]) -> list[float]:
    """The waits of requests in partitions that stayed."""
    sent = [*requests.sent.items()][since:]
    places = ((name, at, member.read_from.get(name)) for name, at in sent)
    return [member.answered[name] - at for name, at, place in places if place is not None and place not in moved]
