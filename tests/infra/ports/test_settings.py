import os
import re
from pathlib import Path

import pytest

from infra.ports.settings import SettingsError, load


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in [name for name in os.environ if name.startswith("FORYOU_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nothing_set / "foryou.toml").write_text(
        'kafka = "file:1"\nfeed_size = 7\n[kafka_options]\n"sasl.username" = "me"\n'
    )
    monkeypatch.setenv("FORYOU_KAFKA", "environment:2")
    settings = load()
    assert (settings.kafka, settings.feed_size, settings.partitions) == ("environment:2", 7, 4)
    assert settings.kafka_options == {"sasl.username": "me"}


def test_settings_go_to_other_processes_and_come_back_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(kafka="a:1,b:2", kafka_options={"ssl.ca.location": "/ca"}, redis_cluster=True, clock="log")
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load() == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FORYOU_PARTITIONS", "0"),
        ("FORYOU_PARTITIONS", "many"),
        ("FORYOU_REDIS", "http://somewhere"),
        ("FORYOU_CLOCK", "sun"),
        ("FORYOU_KAFKA_OPTIONS", "no json"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_in_one_line(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=re.compile(name.removeprefix("FORYOU_"), re.IGNORECASE)) as told:
        load()
    assert len(str(told.value).splitlines()) == 1


def test_an_unknown_setting_in_the_file_is_named_with_those_there_are(nothing_set: Path) -> None:
    (nothing_set / "foryou.toml").write_text('kafak = "typo:1"\n')
    with pytest.raises(SettingsError, match=r"^unknown setting 'kafak'; known are kafka, "):
        load()


def test_a_file_that_is_named_but_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORYOU_CONFIG", "/no/such/foryou.toml")
    with pytest.raises(SettingsError, match=r"FORYOU_CONFIG names /no/such/foryou\.toml"):
        load()


def test_a_file_that_is_not_toml_is_told_in_one_line(nothing_set: Path) -> None:
    (nothing_set / "foryou.toml").write_text("this is not = = toml")
    with pytest.raises(SettingsError) as told:
        load()
    assert len(str(told.value).splitlines()) == 1
