import pytest
from typer import BadParameter
from typer.testing import CliRunner

from infra.cli.commands import _duration_ms, _speed, app
from infra.ports.settings import load


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [("30d", 2_592_000_000), ("48h", 172_800_000), ("90m", 5_400_000), ("1.5s", 1_500), ("250ms", 250)],
)
def test_a_duration_has_a_unit(text: str, duration_ms: int) -> None:
    assert _duration_ms(text) == duration_ms


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "0h", "1 week"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadParameter):
        _duration_ms(text)


@pytest.mark.parametrize(("text", "speed"), [("100x", 100.0), ("0.5", 0.5), ("2.5x", 2.5)])
def test_a_speed_is_a_factor(text: str, speed: float) -> None:
    assert _speed(text) == speed


@pytest.mark.parametrize("text", ["", "x", "0x", "-1", "fast"])
def test_what_is_no_speed_is_refused(text: str) -> None:
    with pytest.raises(BadParameter):
        _speed(text)


def test_commands_look_for_the_stack_of_up_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORYOU_KAFKA", raising=False)
    monkeypatch.delenv("FORYOU_REDIS", raising=False)
    assert (load().kafka, load().redis) == ("127.0.0.1:19092", "redis://127.0.0.1:16379/0")
    monkeypatch.setenv("FORYOU_KAFKA", "broker:9092")
    assert (load().kafka, load().redis) == ("broker:9092", "redis://127.0.0.1:16379/0")


def test_an_age_limit_is_not_for_a_system_that_already_runs() -> None:
    done = CliRunner().invoke(app, ["replay", "somewhere", "--max-post-age", "30d"])
    assert done.exit_code == 2
    assert "goes with --embedded" in done.output
