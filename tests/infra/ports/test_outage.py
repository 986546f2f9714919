import itertools
import logging
import threading

import pytest
import redis

from infra.ports import outage as outage_module
from infra.ports.errors import StopRequested
from infra.ports.outage import Outage, outage
from infra.ports.redis import RedisRetry
from infra.ports.settings import load
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


def test_an_outage_of_one_shard_stays_open_while_commands_on_the_others_succeed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage_module, "SETTLE_S", -1.0)
    monkeypatch.setattr("infra.ports.redis._RETRY_S", 0.001)
    address = "redis://cluster-with-a-shard-down:6379"
    retry = RedisRetry(load(redis=address), threading.Event())
    attempts, problems = itertools.count(), list[str | None]()

    def gather() -> None:
        if next(attempts) < 4:
            raise redis.ConnectionError("shard 2 is down")

    def heartbeat() -> None:
        """Succeed: its key is of another shard."""

    def gather_between_heartbeats() -> None:
        try:
            gather()
        finally:
            retry.attempt(heartbeat)
            problems.append(outage("Redis", address).problem)

    retry.run(gather_between_heartbeats)
    (is_first, *later, last) = [problem is None for problem in problems]
    assert (is_first, later, last) == (True, [False] * 3, False)
    assert outage("Redis", address).problem is None
    assert outage("Redis", address).count == 1
    assert len([record for record in caplog.records if "cluster-with" in record.getMessage()]) == 2


def test_a_heartbeat_that_fails_keeps_its_outage_open_until_a_heartbeat_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outage_module, "SETTLE_S", -1.0)
    address = "redis://cluster-without-the-shard-of-the-registry:6379"
    retry = RedisRetry(load(redis=address), threading.Event())

    def heartbeat() -> None:
        raise redis.ConnectionError("away")

    assert not retry.attempt(heartbeat)
    retry.run(lambda: None)
    assert outage("Redis", address).problem is not None
    assert retry.attempt(lambda: None)
    assert outage("Redis", address).problem is None


def test_a_command_that_is_given_up_keeps_no_outage_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage_module, "SETTLE_S", -1.0)
    address, stopping = "redis://given-up:6379", threading.Event()
    stopping.set()
    retry = RedisRetry(load(redis=address), stopping)

    def command() -> None:
        raise redis.ConnectionError("away")

    with pytest.raises(StopRequested):
        retry.run(command)
    assert outage("Redis", address).problem is not None
    retry.run(lambda: None)
    assert outage("Redis", address).problem is None
