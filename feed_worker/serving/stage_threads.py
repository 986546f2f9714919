"""Steps that overlap: each has a thread of its own, and batches pass through them in order."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

T = TypeVar("T")
LEAVE_S: Final = 1.0
"""How long a step that is at work is waited for on leaving; what matters was drained before."""


class StageThreads(AbstractContextManager["StageThreads[T]"], Generic[T]):
    """A line of steps. A step works on one batch, and one more may wait before it.

    A batch should be formed only when `has_room` says that the first step has room: what waits longer meets more that
    it can be computed with. The first error of any step ends all: `check` raises it.

    Args:
        steps: the name of each thread, and what it does to a batch.

    """

    def __init__(self, *steps: tuple[str, Callable[[T], None]]) -> None:
        self._rooms: list[T | None] = [None for _ in steps]
        self._under_way: list[T] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(place, step), name=name, daemon=True)
            for place, (name, step) in enumerate(steps)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(LEAVE_S)

    @property
    def failure(self) -> BaseException | None:
        """The first error of any step."""
        return self._failure

    @property
    def in_flight(self) -> list[T]:
        """The batches that were put and are not through, oldest first."""
        with self._changed:
            return list(self._under_way)

    def check(self) -> None:
        """Raise the first error of any step."""
        if self._failure is not None:
            raise self._failure

    def has_room(self, wait_s: float) -> bool:
        """Whether the first step has room for another batch; waits for that a while."""
        with self._changed:
            self._changed.wait_for(lambda: self._rooms[0] is None or self._failure, wait_s)
            return self._rooms[0] is None and not self._failure

    def put(self, batch: T) -> None:
        """Hand over a batch; waits for room."""
        with self._changed:
            self._under_way.append(batch)
            self._hand_over(0, batch)

    def wait_for_change(self, seen: Sequence[T], wait_s: float) -> None:
        """Wait a while for others to be under way than were seen."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way != seen or self._failure, wait_s)

    def drain(self, wait_s: float) -> bool:
        """Wait until no batch is under way; whether it came to that."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way or self._failure, wait_s)
            return not self._under_way

    def _run(self, place: int, step: Callable[[T], None]) -> None:
        try:
            while (batch := self._next(place)) is not None:
                step(batch)
                self._through(place, batch)
        except BaseException as error:  # whoever put the batch ends the process, and says why
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def _next(self, place: int) -> T | None:
        with self._changed:
            self._changed.wait_for(lambda: self._rooms[place] is not None or self._over)
            batch, self._rooms[place] = self._rooms[place], None
            self._changed.notify_all()
            return None if self._over else batch

    def _through(self, place: int, batch: T) -> None:
        with self._changed:
            if place + 1 < len(self._rooms):
                self._hand_over(place + 1, batch)
            else:
                self._under_way.remove(batch)
                self._changed.notify_all()

    def _hand_over(self, place: int, batch: T) -> None:
        self._changed.wait_for(lambda: self._rooms[place] is None or self._over)
        self._rooms[place] = batch
        self._changed.notify_all()

    @property
    def _over(self) -> bool:
        return self._stopped or self._failure is not None
