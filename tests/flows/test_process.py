"""The sign of life of a flow, and its waits, while it restores its state."""

from collections.abc import Iterator

import pytest

from flows import process
from flows.process import problem, restored_from, wait_for_kafka
from infra.ports.errors import BrokerUnreachable, StopRequested
from infra.ports.outage import open_outage, outage
from infra.ports.settings import load


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The waits of the process; none takes time."""
    waits = list[float]()

    class Stopping:
        is_stopped = False

        def wait(self, timeout_s: float) -> bool:
            waits.append(timeout_s)
            return self.is_stopped

    monkeypatch.setattr(process, "stopping", Stopping())
    monkeypatch.setattr(process, "kafka_probe", lambda _: lambda: True)
    yield waits
    outage("Kafka", "a-broker:1").ends()


def test_each_restored_batch_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "scan", lambda *_, **__: iter([["a"], ["b"]]))
    monkeypatch.setattr(process, "open_outage", lambda: None)
    problems = list[bool]()
    process.note_life()  # of the start
    for _ in restored_from(load(kafka="a-broker:1"), "accounts"):
        problems.append(problem() is not None)
        process._alive_at_s -= 2 * process.STALLED_S  # the work on this batch
    assert problems == [False, False]


def test_a_restore_waits_for_kafka_and_a_stop_signal_ends_the_wait(
    waited: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = list[object]()
    monkeypatch.setattr(process, "exit_now", ends.append)
    wait = wait_for_kafka(load(kafka="a-broker:1"))
    wait(BrokerUnreachable("no broker answers"))
    assert (waited, ends) == ([1.0], [])
    process.stopping.is_stopped = True  # type: ignore[attr-defined]  # of the fixture
    wait(BrokerUnreachable("no broker answers"))
    assert [type(each) for each in ends] == [StopRequested]
    assert open_outage() is None or "a-broker" in str(open_outage())
