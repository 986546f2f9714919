"""Calls on background threads that a time budget can abandon.

Python cannot stop a thread, but the caller can stop waiting. The call then runs to its end, and its result is dropped.
So a function that is called here must return its result and change no other state.
"""

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeAlias, TypeVar

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")
_Inbox: TypeAlias = "SimpleQueue[BackgroundCall[Any]]"

_idle: Final[list[_Inbox]] = []
"""The inboxes of idle threads, a stack; all pipelines of a process share them."""


class BackgroundCall(Generic[ResultT]):
    """A call that starts at once on a pooled daemon thread.

    `concurrent.futures` does not fit: it joins its threads at the end of the process, and an abandoned call may hang.
    `ends_by` and `result` are for the thread that made the call; `given_up` may be read from any thread.

    Args:
        name: of the component, for the log.
        function: gets this call as its argument, and may read `given_up` to stop early.

    Attributes:
        given_up: True once the caller has stopped waiting.
        began_s: start, by `time.perf_counter()`.
        elapsed_ms: the duration of the call, or of the wait for it.

    """

    def __init__(self, name: str, function: Callable[["BackgroundCall[ResultT]"], ResultT]) -> None:
        self.given_up = False
        self.elapsed_ms = 0.0
        self._name, self._function = name, function
        self.began_s = time.perf_counter()
        self._ended = threading.Event()
        self._result: ResultT | BaseException
        try:
            inbox = _idle.pop()
        except IndexError:
            inbox = SimpleQueue()
            threading.Thread(target=_work, args=(inbox,), name="pipeline", daemon=True).start()
        inbox.put(self)

    @property
    def is_running(self) -> bool:
        """True until the function has returned, also after it was given up."""
        return not self._ended.is_set()

    def ends_by(self, at_s: float) -> bool:
        """Wait for the end until `at_s`, by `time.perf_counter()`; True if it has ended, else the call is given up."""
        if self._ended.wait(min(max(0.0, at_s - time.perf_counter()), threading.TIMEOUT_MAX)):
            return True
        self.given_up = True
        self.elapsed_ms = 1000 * (time.perf_counter() - self.began_s)
        return False

    def result(self) -> ResultT:
        """The function's result after its end; raises the function's error."""
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result

    def run(self) -> None:
        """Call the function; for the pooled thread."""
        try:
            result: ResultT | BaseException = self._function(self)
        except BaseException as error:  # `result` raises it in the caller's thread
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
