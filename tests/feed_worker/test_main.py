import re
import signal
import threading
from pathlib import Path

import pytest

import feed_worker
from feed_worker.__main__ import main
from feed_worker.serving.service import Service
from infra.ports import consumer, endpoints, kafka_config
from infra.ports import redis as redis_port
from infra.ports.errors import BrokerUnreachable, DeliveryFailed, RedisRefused, StopRequested
from infra.ports.settings import Settings

PORTS = (consumer, endpoints, kafka_config, redis_port)
SOURCES = [*Path(*feed_worker.__path__).rglob("*.py"), *(Path(str(each.__file__)) for each in PORTS)]


@pytest.fixture(autouse=True)
def no_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def run_that_raises(error: Exception, monkeypatch: pytest.MonkeyPatch, *, stops: bool = False) -> None:
    def run(service: Service) -> None:
        stopping: threading.Event = service._stopping
        if stops:
            stopping.set()
        raise error

    monkeypatch.setattr(Service, "run", run)


def test_help_lists_the_settings_that_a_worker_reads(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    listed = set(re.findall(r"^  FORYOU_(\w+)$", capsys.readouterr().out, re.MULTILINE))
    read = {name for path in SOURCES for name in re.findall(r"settings\.([a-z_]+)", path.read_text())}
    assert listed == {name.upper() for name in read & Settings.model_fields.keys()}


def test_an_unknown_argument_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--port", "1"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --port 1" in capsys.readouterr().err


@pytest.mark.parametrize("stops", [False, True])  # the service sets `stopping` while it ends with an error
def test_a_refused_delivery_ends_the_process_with_exit_code_1(stops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run_that_raises(DeliveryFailed("message too large"), monkeypatch, stops=stops)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 1


def test_a_requested_stop_during_an_outage_exits_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    run_that_raises(StopRequested("no reply"), monkeypatch, stops=True)
    main([])


def test_a_wrong_setting_gets_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORYOU_FEED_SIZE", "0")
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert re.fullmatch(r"FORYOU_FEED_SIZE .*greater than or equal to 1.*\n", capsys.readouterr().err)


@pytest.mark.parametrize("error", [BrokerUnreachable("no reply"), RedisRefused("no reply")])
def test_a_server_in_the_way_gets_one_line_and_exit_code_1(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_that_raises(error, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "no reply\n"
