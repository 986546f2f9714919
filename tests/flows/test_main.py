import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource

import flows.__main__
import flows.process
from flows.__main__ import NAMES, create_recovery_store, main
from infra.ports.errors import BrokerUnreachable
from infra.ports.kafka_config import FLOW_GROUPS


def copy(into: list[int]) -> Dataflow:
    flow = Dataflow("copy")
    op.output("out", op.input("in", flow, TestingSource(range(3))), TestingSink(into))
    return flow


def use(monkeypatch: pytest.MonkeyPatch, flow: Any) -> None:
    monkeypatch.setattr(flows.__main__, "import_module", lambda _name: SimpleNamespace(flow=flow))


def test_the_command_lists_the_flows_with_consumer_groups() -> None:
    assert {f"flows.{name}" for name in NAMES} == set(FLOW_GROUPS)


def test_help_lists_the_flows_and_starts_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(part in text for part in ("posts, engagements, embeddings", "--recovery DIR"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["post"], "unknown flow 'post'; known flows: posts, engagements, embeddings\n"),
        (["posts", "-i", "1"], "--process-id and --addresses need each other\n"),
    ],
)
def test_wrong_usage_gets_one_line_and_exit_code_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == line


def test_a_flow_runs_with_a_recovery_store_that_is_created_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[int] = []
    use(monkeypatch, lambda: copy(found))
    monkeypatch.setattr(flows.process, "cluster_id", lambda _: "one")
    store = tmp_path / "recovery" / "posts"
    main(["posts", "--recovery", str(store)])
    assert found == [0, 1, 2]
    files = sorted(store.iterdir())
    create_recovery_store(store)
    assert sorted(store.iterdir()) == files
    assert [each.name for each in store.parent.iterdir()] == ["posts"]
    main(["posts", "--recovery", str(store)])
    assert found == [0, 1, 2]  # resumed after the end


def test_a_recovery_store_of_another_cluster_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[int] = []
    use(monkeypatch, lambda: copy(found))
    monkeypatch.setattr(flows.process, "cluster_id", lambda _: "one")
    main(["posts", "--recovery", str(tmp_path / "posts")])
    monkeypatch.setattr(flows.process, "cluster_id", lambda _: "two")
    with pytest.raises(SystemExit) as ended:
        main(["posts", "--recovery", str(tmp_path / "posts")])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "cluster one, but the settings name two: give --recovery another directory" in line
    assert found == [0, 1, 2]


def test_a_server_in_the_way_gets_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flow() -> Dataflow:
        try:
            raise BrokerUnreachable("no Kafka broker answers")
        except BrokerUnreachable as error:
            raise RuntimeError("error in a step") from error

    use(monkeypatch, flow)
    with pytest.raises(SystemExit) as ended:
        main(["posts"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "no Kafka broker answers\n"


def test_a_defect_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["posts"])


def test_a_wrong_setting_gets_one_line_and_exit_code_2_with_both_commands() -> None:
    for module in (["flows", "posts"], ["bytewax.run", "flows.posts"]):
        command = [sys.executable, "-m", *module]
        done = subprocess.run(command, env={"FORYOU_PARTITIONS": "0"}, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("FORYOU_PARTITIONS ")
        assert len(done.stderr.splitlines()) == 1
