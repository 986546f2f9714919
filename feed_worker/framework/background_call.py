"""Calls that nobody has to wait for: each on a thread, given up when its time is over.

Python cannot stop a thread. What can be given up is the wait: the call goes on until it ends by itself, and what it
then returns is thrown away. So whatever is called here returns what it found and changes nothing else.
"""

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeAlias, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
_Inbox: TypeAlias = "SimpleQueue[BackgroundCall[Any]]"

_idle: Final[list[_Inbox]] = []
"""Of the threads that have nothing to do, the last to become so last. All pipelines of a process share them."""


class BackgroundCall(Generic[T]):
    """A function under way on a thread of its own, from the moment this is made.

    Threads are kept for the next call, and never hold up the end of the process.

    Args:
        name: who is called, for the log.
        function: called with this call, which knows whether it was `given_up`, so that it can stop early.

    Attributes:
        given_up: whether nobody waits for it any more.
        began_s: when it was made, by `perf_counter`.
        elapsed_ms: how long it took, or was waited for.

    """

    def __init__(self, name: str, function: Callable[["BackgroundCall[T]"], T]) -> None:
        self.given_up = False
        self.elapsed_ms = 0.0
        self._name, self._function = name, function
        self.began_s = time.perf_counter()
        self._ended = threading.Event()
        self._result: T | BaseException
        try:
            inbox = _idle.pop()
        except IndexError:
            inbox = SimpleQueue()
            threading.Thread(target=_work, args=(inbox,), name="pipeline", daemon=True).start()
        inbox.put(self)

    @property
    def is_under_way(self) -> bool:
        """Whether the function still runs, waited for or not."""
        return not self._ended.is_set()

    def ends_by(self, at_s: float) -> bool:
        """Wait for the end, until a time of `perf_counter` at most, then give the call up; whether it has ended."""
        if self._ended.wait(min(max(0.0, at_s - time.perf_counter()), threading.TIMEOUT_MAX)):
            return True
        self.given_up = True
        self.elapsed_ms = 1000 * (time.perf_counter() - self.began_s)
        return False

    def result(self) -> T:
        """What the function returned, once it has ended; raises what it raised."""
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result

    def run(self) -> None:
        """BackgroundCall the function, in the thread that this is called from."""
        try:
            result: T | BaseException = self._function(self)
        except BaseException as error:  # whoever waits decides what it means
            result = error
        self._result = result
        elapsed_ms = 1000 * (time.perf_counter() - self.began_s)
        if self.given_up:
            outcome = type(result).__name__ if isinstance(result, BaseException) else "an answer"
            log.warning("%s, given up, has ended after %.0f ms with %s", self._name, elapsed_ms, outcome)
        else:
            self.elapsed_ms = elapsed_ms
        self._ended.set()


def _work(inbox: _Inbox) -> None:
    while True:
        call = inbox.get()
        call.run()
        del call
        _idle.append(inbox)
