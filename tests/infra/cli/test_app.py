import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from infra.cli.app import app
from infra.ports.settings import UP_KAFKA_PORT, UP_REDIS_PORT, load

HEAVY = {"bytewax", "haiku", "jax", "numba", "pydantic_settings", "redis", "confluent_kafka"}


def test_the_version_is_that_of_the_package() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"foryou {version('foryou')}\n"


def test_the_help_lists_the_commands_in_groups() -> None:
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).output
    titles = [line.split()[1:] for line in text.splitlines() if line.startswith("╭─ ")]
    groups = [" ".join(word for word in title if word.isalpha()) for title in titles]
    assert groups == ["Options", "Run", "Publish and read", "Look inside", "Operate", "Models"]


def test_the_help_of_up_names_the_default_ports() -> None:
    text = CliRunner().invoke(app, ["up", "--help"]).output
    assert str(UP_KAFKA_PORT) in text
    assert str(UP_REDIS_PORT) in text


def test_the_shell_completes_a_command() -> None:
    variables = {"_FORYOU_COMPLETE": "complete_bash", "COMP_WORDS": "foryou dead", "COMP_CWORD": "1"}
    done = CliRunner().invoke(app, [], prog_name="foryou", env=variables)
    assert done.output.split() == ["dead-letters"]


def test_help_and_completion_load_no_library_of_the_system() -> None:
    program = "import sys, infra.cli.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=os.environ)
    assert HEAVY & {name.split(".")[0] for name in done.stdout.decode().split()} == set()


def test_commands_use_the_servers_of_up_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORYOU_KAFKA", raising=False)
    monkeypatch.delenv("FORYOU_REDIS", raising=False)
    assert (load().kafka, load().redis) == ("127.0.0.1:19092", "redis://127.0.0.1:16379/0")
    monkeypatch.setenv("FORYOU_KAFKA", "broker:9092")
    assert (load().kafka, load().redis) == ("broker:9092", "redis://127.0.0.1:16379/0")


def test_an_age_limit_is_refused_for_a_running_system() -> None:
    done = CliRunner().invoke(app, ["replay", "somewhere", "--max-post-age", "30d"])
    assert done.exit_code == 2
    assert "needs --embedded" in done.output
