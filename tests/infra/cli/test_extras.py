import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from infra.cli.extras import missing_extra
from infra.ports.extras import MODULES
from tests.infra.cli.plain_installation import name_of, plain_distributions

ROOT = Path(__file__).parents[3]
CLOSED = {"FORYOU_KAFKA": "127.0.0.1:1", "FORYOU_REDIS": "redis://127.0.0.1:1/0"}


def run_plain(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module of this project with the plain requirements only."""
    command = [sys.executable, "-m", "tests.infra.cli.plain_installation", *arguments]
    return subprocess.run(command, cwd=ROOT, env=CLOSED | environment, capture_output=True, text=True, check=False)


def test_the_import_of_the_client_loads_no_module_of_an_extra_nor_of_kafka_and_redis() -> None:
    heavy = MODULES | {"confluent_kafka", "redis", "pydantic"}
    script = f"import sys, feed_worker.client; print(sorted({set(heavy)!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["publish", "--help"],
        ["train", "--help"],
        ["schemas", "posts"],
        ["schemas", "explain"],
    ],
)
def test_a_command_without_a_model_runs_in_a_plain_installation(arguments: list[str]) -> None:
    ran = run_plain("infra.cli", *arguments)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["publish"],
        ["feed", "1"],
        ["explain", "1"],
        ["topics"],
        ["dead-letters"],
        ["dead-letters", "--republish", "--yes"],
        ["models"],
    ],
)
def test_a_command_without_a_model_reaches_for_the_servers_in_a_plain_installation(arguments: list[str]) -> None:
    ran = run_plain("infra.cli", *arguments)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("foryou: no Kafka broker answers at 127.0.0.1:1 ")


def test_doctor_runs_in_a_plain_installation() -> None:
    ran = run_plain("infra.cli", "doctor", "--json")
    assert ran.returncode == 1
    assert ran.stdout.startswith("[")


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "--since", "2024-01-01", "--until", "2024-01-02", "--out", "x", "--log", "."], "train"),
        (
            ["evaluate", "--since", "2024-01-01", "--until", "2024-01-02", "--checkpoint", "x", "--log", "."],
            "train",
        ),
        (["up"], "embedded"),
        (["up", "--external"], "serve"),
        (["demo"], "embedded"),
        (["state", "user", "1"], "serve"),
        (["rebuild", "users"], "serve"),
    ],
)
def test_a_command_whose_extra_is_missing_ends_with_one_line(arguments: list[str], extra: str, tmp_path: Path) -> None:
    ran = run_plain("infra.cli", *arguments)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"foryou {arguments[0]} needs the extra [{extra}]: pip install 'foryou[{extra}]'\n"


@pytest.mark.parametrize(("module", "arguments"), [("flows", ["posts", "--recovery", "x"]), ("feed_worker", [])])
def test_a_process_whose_extra_is_missing_ends_with_one_line(module: str, arguments: list[str]) -> None:
    ran = run_plain(module, *arguments)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"python -m {module} needs the extra [serve]: pip install 'foryou[serve]'\n"


def test_a_missing_module_of_no_extra_is_a_defect() -> None:
    assert missing_extra(ModuleNotFoundError("", name="infra.cli.nothing"), ["train"]) is None
    assert missing_extra(ModuleNotFoundError("", name=None), ["train"]) is None


def test_the_modules_of_every_extra_are_known() -> None:
    of_distribution = metadata.packages_distributions()
    known = {name_of(each) for module in MODULES for each in of_distribution.get(module, ())}
    extras = [each for each in metadata.requires("foryou") or () if "extra ==" in each and "'dev'" not in each]
    wanted = {name_of(each) for each in extras if '"dev"' not in each} - {"foryou"}
    assert wanted - known == set()
    assert known & plain_distributions() == set()
