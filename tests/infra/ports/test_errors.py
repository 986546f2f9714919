"""One root of the exceptions that a user can meet; the tests read the source and import no module."""

import ast
import builtins
from collections import Counter
from pathlib import Path

import infra
from infra.ports.errors import ForYouError, UsageError

PACKAGES = ("thunder_ingest", "phoenix", "flows", "feed_worker", "infra")
INTERNAL = {
    "ColumnError": "a defect of a component; the stage counts it and continues",
    "OverBudget": "control flow of a stage",
    "StillBusy": "control flow of a stage",
    "ClientClosed": "the client raises RedisUnreachable for it",
    "ContractError": "a defect of a component; the stage counts it and continues",
}
"""The exceptions that no user can meet, each with the reason."""


def defined_classes() -> list[ast.ClassDef]:
    root = Path(*infra.__path__).parent
    trees = [ast.parse(path.read_text()) for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def base_names(definition: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).rpartition(".")[2] for base in definition.bases]


CLASSES = defined_classes()
BASES = {each.name: base_names(each) for each in CLASSES}


def is_exception(name: str) -> bool:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        return True
    return any(map(is_exception, BASES.get(name, ())))


def has_the_root(name: str) -> bool:
    return name == ForYouError.__name__ or any(map(has_the_root, BASES.get(name, ())))


def test_every_exception_has_the_one_root() -> None:
    assert {name for name in BASES if is_exception(name) and not has_the_root(name)} == set(INTERNAL)


def test_every_exception_is_defined_once() -> None:
    defined = Counter(each.name for each in CLASSES if is_exception(each.name))
    assert len(defined) > len(INTERNAL)
    assert [name for name, times in defined.items() if times > 1] == []


def test_wrong_usage_exits_with_2_and_a_server_or_data_in_the_way_with_1() -> None:
    assert (ForYouError.exit_code, UsageError.exit_code) == (1, 2)
