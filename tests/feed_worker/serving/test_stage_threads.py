import queue
import threading
from collections.abc import Callable

import pytest

from feed_worker.serving.stage_threads import StageThreads
from tests.infra.waiting import eventually

SOON_S = 10.0


class Gate:
    """A stage that holds each batch until `open`."""

    def __init__(self) -> None:
        self.entered: queue.Queue[str] = queue.Queue()
        self._may_leave: queue.Queue[None] = queue.Queue()

    def __call__(self, batch: str) -> None:
        self.entered.put(batch)
        self._may_leave.get(timeout=SOON_S)

    def open(self) -> None:
        self._may_leave.put(None)


def test_each_stage_works_on_its_own_batch_and_one_more_waits_before_the_first() -> None:
    first, second = Gate(), Gate()
    with StageThreads[str](("first", first), ("second", second)) as line:
        line.put("a")
        assert first.entered.get(timeout=SOON_S) == "a"
        first.open()
        assert second.entered.get(timeout=SOON_S) == "a"
        assert line.has_room(0)
        line.put("b")
        assert first.entered.get(timeout=SOON_S) == "b"
        assert line.has_room(0)
        line.put("c")
        assert not line.has_room(0)
        assert line.in_flight == ["a", "b", "c"]
        assert not line.drain(0)
        for gate in (first, second) * 3:
            gate.open()
        assert line.drain(SOON_S)
        assert line.in_flight == []


def test_batches_leave_in_order() -> None:
    out: list[int] = []
    with StageThreads[int](("first", lambda _: None), ("second", out.append)) as line:
        for batch in range(1, 200):
            line.put(batch)
        assert line.drain(SOON_S)
    assert out == list(range(1, 200))


def test_the_first_error_of_a_stage_ends_all_stages_and_all_waits() -> None:
    def fail(_batch: str) -> None:
        raise LookupError("no such thing")

    with StageThreads[str](("first", lambda _: None), ("second", fail)) as line:
        line.put("a")
        assert not line.drain(SOON_S)
        line.put("b")
        assert not line.has_room(SOON_S)
        with pytest.raises(LookupError, match="no such thing"):
            line.check()
        assert isinstance(line.failure, LookupError)


def test_a_wait_for_a_change_ends_when_a_batch_leaves() -> None:
    gate = Gate()
    with StageThreads[str](("only", gate)) as line:
        line.put("a")
        seen = line.in_flight
        assert seen == ["a"]
        gate.open()
        line.wait_for_change(seen, SOON_S)
        assert line.in_flight == []


def test_leaving_ends_the_threads() -> None:
    step: Callable[[str], None] = lambda _: None  # noqa: E731
    with StageThreads[str](("one that ends", step), ("another that ends", step)):
        assert {"one that ends", "another that ends"} <= {thread.name for thread in threading.enumerate()}
    eventually(lambda: not any("that ends" in thread.name for thread in threading.enumerate()))
