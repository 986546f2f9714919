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
PRODUCT = {"thunder_ingest", "phoenix", "flows", "feed_worker", "infra"}
HOUSE = PRODUCT | {"benchmarks", "tests"}


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


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph() -> dict[str, set[str]]:
    """The product's modules that each module imports, also in functions and under TYPE_CHECKING."""
    files = {module_name(file): file for package in sorted(PRODUCT) for file in (ROOT / package).rglob("*.py")}
    edges: dict[str, set[str]] = {}
    for module, file in files.items():
        # `from package import name` imports the module package.name if there is one, else the package
        names = (name if name in files else name.rpartition(".")[0] for name in imported(file))
        edges[module] = {name for name in names if name in files} - {module}
    return edges


def cycles(edges: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components with two modules or more."""
    reached: dict[str, set[str]] = {}
    for module in edges:
        seen, waiting = set[str](), [module]
        while waiting:
            for name in edges[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        reached[module] = seen
    components = {
        frozenset(other for other in seen if module in reached[other])
        for module, seen in reached.items()
        if module in seen
    }
    return sorted((set(each) for each in components), key=sorted)


def test_no_module_imports_itself_through_others() -> None:
    assert cycles(graph()) == []


def test_a_cycle_of_three_modules_is_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
