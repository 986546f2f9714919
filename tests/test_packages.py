import tomllib
from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).parents[1]


def test_the_wheel_has_every_package_of_the_house_but_benchmarks_and_tests() -> None:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = find_packages(str(ROOT), include=configuration["packages"]["find"]["include"])
    assert {package.partition(".")[0] for package in packages} == {
        "feed_worker",
        "flows",
        "infra",
        "phoenix",
        "thunder_ingest",
    }


def test_every_package_of_the_wheel_is_marked_as_typed() -> None:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py.typed" in configuration["package-data"]["*"]
    for package in ("feed_worker", "flows", "infra", "phoenix", "thunder_ingest"):
        assert (ROOT / package / "py.typed").is_file()
