import logging
import threading

import pytest

from infra.ports import outage as outage_module
from infra.ports.outage import Outage
from tests.infra.waiting import eventually


def test_an_outage_is_logged_at_its_start_and_its_end_and_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage_module, "SETTLE_S", -1.0)
    tested = Outage("Kafka", "nowhere")
    for _ in range(2):
        tested.begins("no reply")
        tested.begins("still none")
        assert tested.problem == "Kafka at nowhere is unreachable (no reply)"
        tested.ends()
        tested.ends()
        assert tested.problem is None
    assert tested.count == 2
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert (
        texts
        == [
            "Kafka at nowhere is unreachable (no reply); retrying",
            "Kafka at nowhere is reachable again",
        ]
        * 2
    )


def test_a_probe_ends_the_outage_of_an_idle_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage_module, "PROBE_S", 0.001)
    answers, tested = threading.Event(), Outage("Kafka", "nowhere")
    tested.begins("no reply", answers.is_set)
    assert tested.problem is not None
    answers.set()
    eventually(lambda: tested.problem is None)
