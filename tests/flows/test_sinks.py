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
from flows.sinks import EpochSink
from infra.ports.errors import DeliveryFailed
from infra.ports.producer import Record
from infra.ports.settings import Settings

PARTS = 12  # more than ten: the order of their names differs from that of their numbers


class Broker:
    """Accepts records at once and delivers them in `deliver`; from the `fails_at`th call with records on it fails."""

    def __init__(self, fails_at: float = inf) -> None:
        self.in_flight: list[bytes] = []
        self.delivered: list[bytes] = []
        self._fails_at, self._flushes = fails_at, 0

    def __call__(self, _settings: Settings, _check: object, _substitute: object) -> "Broker":
        return self

    def publish(self, records: Iterable[Record]) -> None:
        self.in_flight += [record.value or b"" for record in records]

    def deliver(self) -> None:
        self._flushes += bool(self.in_flight)
        if self._flushes >= self._fails_at:
            raise DeliveryFailed("refused")
        self.delivered += self.in_flight
        self.in_flight = []


def write(
    monkeypatch: pytest.MonkeyPatch, broker: Broker, count: int, per_epoch: int, recovery: RecoveryConfig | None
) -> None:
    """Copy the numbers up to `count` into the broker, from the offset of the recovery store."""

    def killed(reason: object) -> None:
        raise RuntimeError(reason)

    monkeypatch.setattr(flows.sinks, "RecordWriter", broker)
    monkeypatch.setattr(flows.sinks, "exit_now", killed)
    flow = Dataflow("copy")
    numbers = op.input("numbers", flow, TestingSource(range(count), batch_size=per_epoch))
    records = op.map("record", numbers, lambda n: (str(n % PARTS), [Record("copy", None, b"%d" % n)]))
    op.output("copy", records, EpochSink(Settings(), [*map(str, range(PARTS))], lambda _: list))
    run_main(flow, recovery_config=recovery, epoch_interval=timedelta(0))


@pytest.mark.parametrize("with_recovery", [True, False])
def test_all_written_records_are_delivered_before_a_flow_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, with_recovery: bool
) -> None:
    init_db_dir(tmp_path, 1)
    broker = Broker()
    write(monkeypatch, broker, 30, 7, RecoveryConfig(str(tmp_path)) if with_recovery else None)
    assert sorted(map(int, broker.delivered)) == [*range(30)]
    assert not broker.in_flight


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_records_of_an_epoch_without_delivery_are_written_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails_at: int
) -> None:
    init_db_dir(tmp_path, 1)
    recovery = RecoveryConfig(str(tmp_path), backup_interval=timedelta(0))
    first, second = Broker(fails_at), Broker()
    with pytest.raises(RuntimeError):
        write(monkeypatch, first, 30, 7, recovery)
    write(monkeypatch, second, 30, 7, recovery)
    assert first.in_flight
    assert sorted({*map(int, first.delivered), *map(int, second.delivered)}) == [*range(30)]
