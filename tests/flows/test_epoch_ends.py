"""The inputs of one process align the ends of their epochs; on a model of Bytewax's polls."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from flows.sources import EPOCH, IDLE, EpochEnds

START = datetime(2026, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)


@dataclass
class Input:
    """A partition: Bytewax counts its interval from its own last end, and polls it while it waits for the others."""

    began: datetime
    awake: datetime
    epoch: int = 0
    polled: int = 0
    read: int = 0


class Epoch(NamedTuple):
    """The polls without a read and the reads of an input within one epoch."""

    polled: int
    read: int


def run(offsets: Sequence[int], busy: Sequence[bool], ends: EpochEnds | None) -> list[list[Epoch]]:
    """Simulate inputs that start at these offsets in ms, in steps of 1 ms; return the epochs of each."""
    inputs = [Input(START + offset * MS, START) for offset in offsets]
    epochs: list[list[Epoch]] = [[] for _ in inputs]
    for now in (START + each * MS for each in range(8_000)):
        for place, each in enumerate(inputs):
            if now < each.awake:
                continue
            if each.epoch > min(other.epoch for other in inputs):
                each.polled += 1
                continue
            each.read += 1
            soon = now + IDLE
            later = ends.asleep_until(each.epoch, each.began, soon) if ends else None
            each.awake = later or (now if busy[place] else soon)
            if now - each.began >= EPOCH:
                epochs[place].append(Epoch(each.polled, each.read))
                each.epoch, each.began, each.polled, each.read = each.epoch + 1, now, 0, 0
                if ends:
                    ends.note(each.epoch, now)
    return epochs


@given(st.lists(st.tuples(st.integers(0, 900), st.booleans()), min_size=2, max_size=4))
def test_the_ends_of_epochs_converge(inputs: list[tuple[int, bool]]) -> None:
    offsets, busy = zip(*inputs, strict=True)
    for epochs in run(offsets, busy, EpochEnds()):
        assert max(each.polled for each in epochs[3:]) <= 2 * (IDLE // MS)
        assert min(each.read for each in epochs[3:]) >= 0.95 * (EPOCH // IDLE)


def test_without_alignment_an_input_that_is_ahead_is_polled_without_limit() -> None:
    early, late = run([0, 400], [False, False], None)
    assert min(each.polled for each in early[2:]) > 300
    assert max(each.polled for each in late) == 0


def test_inputs_that_end_together_do_not_sleep_longer() -> None:
    ends = EpochEnds()
    for epoch in (1, 2):
        ended = START + epoch * EPOCH
        ends.note(epoch, ended)
        ends.note(epoch, ended + IDLE)
        assert ends.asleep_until(epoch, ended, ended + EPOCH) is None


def test_an_input_that_others_wait_for_does_not_sleep_longer() -> None:
    ends = EpochEnds()
    ends.note(1, START)
    ends.note(1, START + 400 * MS)
    ends.note(2, START + EPOCH)
    assert ends.asleep_until(1, START + 400 * MS, START + 400 * MS + EPOCH) is None
