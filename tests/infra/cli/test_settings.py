import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli.app import app
from infra.ports.settings import Settings, SettingsError

SECRETS = {
    "FORYOU_REDIS": "redis://u:geheim@127.0.0.1:1/0",
    "FORYOU_KAFKA_OPTIONS": '{"sasl.username":"u","sasl.password":"geheim"}',
}


def test_every_setting_is_listed_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foryou.toml").write_text("feed_size = 20\n")
    done = CliRunner().invoke(app, ["settings", "--json"], env={"FORYOU_PARTITIONS": "8", "FORYOU_KAFKA": None})
    rows = {row["name"]: row for row in json.loads(done.output)}
    assert list(rows) == list(Settings.model_fields)
    assert (rows["partitions"]["value"], rows["partitions"]["origin"]) == ("8", "environment")
    assert (rows["feed_size"]["value"], rows["feed_size"]["origin"]) == ("20", "file foryou.toml")
    assert rows["kafka"]["origin"] == "default"
    assert all(row["meaning"] for row in rows.values())


@pytest.mark.parametrize("name", ["feed_size", "FORYOU_FEED_SIZE"])
def test_one_setting_is_shown_by_name_or_variable(name: str) -> None:
    done = CliRunner().invoke(app, ["settings", name, "--json"])
    assert [row["name"] for row in json.loads(done.output)] == ["feed_size"]


def test_an_unknown_setting_is_refused() -> None:
    assert CliRunner().invoke(app, ["settings", "feed_syze"]).exit_code == 2


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_password_is_shown(form: list[str]) -> None:
    done = CliRunner().invoke(app, ["settings", *form], env=SECRETS)
    assert done.exit_code == 0
    assert "sasl.username" in done.output
    assert "geheim" not in done.output


def test_an_unknown_variable_is_refused_with_the_nearest_name() -> None:
    done = CliRunner().invoke(app, ["settings"], env={"FORYOU_OVERIDES": "{}"})
    assert isinstance(done.exception, SettingsError)
    assert "FORYOU_OVERRIDES" in str(done.exception)
    assert done.exception.exit_code == 2
