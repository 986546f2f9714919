from collections.abc import Iterable
from datetime import timedelta
from math import inf
from pathlib import Path

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main

import flows.sinks
import flows.sources
from flows.sinks import EpochSink
from infra.ports.errors import DeliveryFailed
from infra.ports.producer import Record
from infra.ports.settings import Settings

PARTS = 12  # more than ten: their names sort otherwise than their numbers


class Broker:
    """Takes records at once and delivers them when it is waited for; refuses to from the `fails_at`th time on."""

    def __init__(self, fails_at: float = inf) -> None:
        self.on_their_way: list[bytes] = []
        self.delivered: list[bytes] = []
        self._fails_at, self._waited = fails_at, 0

    def __call__(self, _settings: Settings, check: object) -> "Broker":
        return self

    def publish(self, records: Iterable[Record]) -> None:
        self.on_their_way += [record.value or b"" for record in records]

    def flush(self) -> None:
        self._waited += bool(self.on_their_way)
        if self._waited >= self._fails_at:
            raise DeliveryFailed("refused")
        self.delivered += self.on_their_way
        self.on_their_way = []


def write(
    monkeypatch: pytest.MonkeyPatch, broker: Broker, count: int, per_epoch: int, recovery: RecoveryConfig | None
) -> None:
    """Copy the numbers up to `count` into the broker, from where the recovery store says."""

    def killed(reason: object) -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(flows.sinks, "KafkaProducer", broker)
    monkeypatch.setattr(flows.sinks, "exit_now", killed)
    monkeypatch.setattr(flows.sources, "wait_for_topics", lambda _, topics, __: dict.fromkeys(topics, range(PARTS)))
    flow = Dataflow("copy")
    numbers = op.input("numbers", flow, TestingSource(range(count), batch_size=per_epoch))
    records = op.map("record", numbers, lambda n: (f"numbers-{n % PARTS}", [Record("copy", None, b"%d" % n)]))
    op.output("copy", records, EpochSink(Settings(), "numbers"))
    run_main(flow, recovery_config=recovery, epoch_interval=timedelta(0))


@pytest.mark.parametrize("with_recovery", [True, False])
def test_all_that_was_written_is_delivered_before_a_flow_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, with_recovery: bool
) -> None:
    init_db_dir(tmp_path, 1)
    broker = Broker()
    write(monkeypatch, broker, 30, 7, RecoveryConfig(str(tmp_path)) if with_recovery else None)
    assert sorted(map(int, broker.delivered)) == [*range(30)]
    assert not broker.on_their_way


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_what_was_not_delivered_when_its_epoch_ended_is_written_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails_at: int
) -> None:
    init_db_dir(tmp_path, 1)
    recovery = RecoveryConfig(str(tmp_path), backup_interval=timedelta(0))
    first, second = Broker(fails_at), Broker()
    with pytest.raises(RuntimeError):
        write(monkeypatch, first, 30, 7, recovery)
    write(monkeypatch, second, 30, 7, recovery)
    assert first.on_their_way
    assert sorted({*map(int, first.delivered), *map(int, second.delivered)}) == [*range(30)]
