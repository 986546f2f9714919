"""Progress of a command: a line for each finished step, and a moving bar on a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from infra.terminal.signals import unwinding

Advance: TypeAlias = Callable[[float, float], None]
"""Called with the amount done and the total amount."""


class ProgressReport:
    """A context manager that prints progress. Use the console of stderr: stdout has the results only."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._exits = ExitStack()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._exits.enter_context(unwinding())  # the bar hides the cursor
        self._exits.enter_context(self._progress)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.__exit__(kind, error, trace)

    def print_line(self, text: str) -> None:
        """Print one line."""
        self.console.print(f"  {text}", highlight=False, markup=False)

    @contextmanager
    def step(self, title: str) -> Iterator[Advance]:
        """Print a step, its progress, and its duration at its end."""
        if not self.console.is_terminal:
            self.print_line(f"{title} …")
        task = self._progress.add_task(title, total=None)
        began = time.monotonic()
        try:
            yield lambda done, total: self._progress.update(task, completed=done, total=total)
        finally:
            self._progress.remove_task(task)
        self.print_line(f"✓ {title} ({time.monotonic() - began:.1f} s)")
