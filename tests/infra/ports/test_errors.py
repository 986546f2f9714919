"""One root of the exceptions that a user can meet."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import feed_worker
import flows
import infra
import phoenix
import thunder_ingest
from infra.ports.errors import ForYouError, UsageError

PACKAGES = (thunder_ingest, phoenix, flows, feed_worker, infra)
INTERNAL = {
    "feed_worker.candidates.columns.ColumnError": "a defect of a component; the stage counts it and goes on",
    "feed_worker.framework.budgets.OverBudget": "control flow of a stage",
    "feed_worker.framework.pipeline.StillBusy": "control flow of a stage",
    "feed_worker.framework.stages.ContractError": "a defect of a component; the stage counts it and goes on",
}
"""The exceptions that no user can meet, each with the reason."""


def modules() -> Iterator[str]:
    for package in PACKAGES:
        yield package.__name__
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith(".__main__"):
                yield module.name


def test_every_exception_of_the_product_has_the_one_root() -> None:
    defined = {
        f"{kind.__module__}.{name}": kind
        for module in modules()
        for name, kind in inspect.getmembers(importlib.import_module(module), inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == module
    }
    assert len(defined) > len(INTERNAL)
    assert {name for name, kind in defined.items() if not issubclass(kind, ForYouError)} == set(INTERNAL)


def test_wrong_usage_exits_with_2_and_all_else_with_1() -> None:
    assert (ForYouError.exit_code, UsageError.exit_code) == (1, 2)
