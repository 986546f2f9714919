"""Imports point one way: infra's commands ▸ flows, feed_worker ▸ phoenix ▸ thunder_ingest.

`infra.ports` is imported by all and imports none.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PORTS = "infra.ports"
BELOW = {
    PORTS: set[str](),
    "thunder_ingest": {PORTS},
    "phoenix": {PORTS, "thunder_ingest"},
    "flows": {PORTS, "thunder_ingest", "phoenix"},
    "feed_worker": {PORTS, "thunder_ingest", "phoenix"},
}
"""The layers, and the layers below each that it may import. All else of infra stands above them."""
HOUSE = {"thunder_ingest", "phoenix", "flows", "feed_worker", "infra", "benchmarks", "tests"}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_of(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


@pytest.mark.parametrize("layer", BELOW)
def test_a_layer_imports_only_the_layers_below_it(layer: str) -> None:
    files = sorted((ROOT / layer.replace(".", "/")).rglob("*.py"))
    assert files
    allowed = {layer, *BELOW[layer]}
    assert [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        if name.split(".")[0] in HOUSE and not any(is_of(name, each) for each in allowed)
    ] == []
