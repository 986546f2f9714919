"""A pipeline of threads: batches pass through the stages in order, and stages work on different batches at once."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

BatchT = TypeVar("BatchT")
LEAVE_S: Final = 1.0
"""The wait for each thread on leaving; `drain` has waited for the batches that matter."""


class StageThreads(AbstractContextManager["StageThreads[BatchT]"], Generic[BatchT]):
    """One thread a stage, with a queue of one batch before each stage (back-pressure).

    The thread that enters the context is the producer: it forms a batch once `has_room` is true, since a batch that is
    formed late has met more requests to be computed with. The first error of any stage ends all stages, and `check`
    raises it. Stages run in their own threads. `put`, `check`, `wait_for_change` and `drain` are for the producer; the
    properties are for any thread.

    Args:
        stages: the name of each thread, and its function of a batch.

    """

    def __init__(self, *stages: tuple[str, Callable[[BatchT], None]]) -> None:
        self._slots: list[BatchT | None] = [None for _ in stages]
        self._in_flight: list[BatchT] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(number, stage), name=name, daemon=True)
            for number, (name, stage) in enumerate(stages)
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
        """The first error of any stage."""
        return self._failure

    @property
    def in_flight(self) -> list[BatchT]:
        """The batches that were put and have not left the last stage, oldest first."""
        with self._changed:
            return list(self._in_flight)

    def check(self) -> None:
        """Raise the first error of any stage."""
        if self._failure is not None:
            raise self._failure

    def has_room(self, wait_s: float) -> bool:
        """True once the queue of the first stage is empty; False after `wait_s`, or if a stage has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._slots[0] is None or self._failure, wait_s)
            return self._slots[0] is None and not self._failure

    def put(self, batch: BatchT) -> None:
        """Hand a batch to the first stage; blocks until its queue is empty."""
        with self._changed:
            self._in_flight.append(batch)
            self._hand_over(0, batch)

    def wait_for_change(self, seen: Sequence[BatchT], wait_s: float) -> None:
        """Wait until the set of running batches differs from `seen`, at most `wait_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight != seen or self._failure, wait_s)

    def drain(self, wait_s: float) -> bool:
        """Wait until no batch is in flight, at most `wait_s`; True if that is so."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight or self._failure, wait_s)
            return not self._in_flight

    def _run(self, number: int, stage: Callable[[BatchT], None]) -> None:
        try:
            while (batch := self._next(number)) is not None:
                stage(batch)
                self._leave(number, batch)
        except BaseException as error:  # the producer raises it in its own thread, and ends the process
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def _next(self, number: int) -> BatchT | None:
        with self._changed:
            self._changed.wait_for(lambda: self._slots[number] is not None or self._over)
            batch, self._slots[number] = self._slots[number], None
            self._changed.notify_all()
            return None if self._over else batch

    def _leave(self, number: int, batch: BatchT) -> None:
        with self._changed:
            if number + 1 < len(self._slots):
                self._hand_over(number + 1, batch)
            else:
                self._in_flight.remove(batch)
                self._changed.notify_all()

    def _hand_over(self, number: int, batch: BatchT) -> None:
        self._changed.wait_for(lambda: self._slots[number] is None or self._over)
        self._slots[number] = batch
        self._changed.notify_all()

    @property
    def _over(self) -> bool:
        return self._stopped or self._failure is not None
