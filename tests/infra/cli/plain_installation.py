"""Run a module as in a plain installation: `python -m tests.infra.cli.plain_installation MODULE [ARGUMENT …]`.

An import of a distribution outside the plain requirements fails, as if it was not installed.
"""

import re
import runpy
import sys
from collections.abc import Sequence
from importlib import metadata
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def name_of(requirement: str) -> str:
    """The normalised name of a distribution in a requirement."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def plain_distributions() -> set[str]:
    """The distributions that a plain installation has: the closure of the requirements without extras."""
    found, open_ = set[str](), ["foryou"]
    while open_:
        name = open_.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requirements = metadata.requires(name) or ()
        except metadata.PackageNotFoundError:  # a requirement of another platform
            continue
        open_ += [name_of(each) for each in requirements if "extra ==" not in each]
    return found | {"hiredis"}  # the extra of redis that foryou names


class PlainFinder(MetaPathFinder):
    """Finds the modules of the plain distributions, of this project and of Python."""

    def __init__(self) -> None:
        plain = plain_distributions()
        self._finders = [*sys.meta_path]
        self._hidden = {
            module
            for module, distributions in metadata.packages_distributions().items()
            if not any(name_of(each) in plain for each in distributions)
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's specification, None if it is hidden."""
        if name.partition(".")[0] in self._hidden:
            return None
        found = (finder.find_spec(name, path, target) for finder in self._finders)
        return next((spec for spec in found if spec), None)


if __name__ == "__main__":
    sys.meta_path[:] = [PlainFinder()]
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
