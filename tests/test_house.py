"""The shape of the house: which package may know of which."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
PORTS = {
    f"infra.{name}"
    for name in ("clock", "dead_letters", "kafka", "logs", "models", "outage", "redis", "scan", "settings", "topics")
}
"""What of infra a process may use where it begins; none of these knows the rest of the house, but for event types."""
EVENTS = {f"thunder_ingest.{name}" for name in ("events", "ids", "text")}
ALLOWED = {
    "thunder_ingest": set[str](),
    "phoenix": EVENTS,
    "flows": {"thunder_ingest", "phoenix", *PORTS},
    "feed_worker": {"thunder_ingest", "phoenix", *PORTS},
}
PACKAGES = {*ALLOWED, "infra", "benchmarks", "tests"}


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (
                (f"{node.module}.{alias.name}" for alias in node.names) if node.module == "infra" else [node.module]
            )


def strangers(files: list[Path], own: str, allowed: set[str]) -> list[str]:
    found = []
    for file in files:
        for name in imports(file):
            package = name.split(".")[0]
            if package in PACKAGES - {own} and not {package, name} & allowed:
                found.append(f"{file.relative_to(HOUSE)} imports {name}")
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    files = sorted((HOUSE / package).rglob("*.py"))
    assert files
    assert strangers(files, package, ALLOWED[package]) == []


def test_the_ports_know_nothing_of_the_house_but_event_types() -> None:
    files = [HOUSE / f"{port.replace('.', '/')}.py" for port in PORTS]
    assert strangers(files, "", PORTS | EVENTS) == []
