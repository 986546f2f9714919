import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.ports.clock import DAY_MS, HOUR_MS, LogClock

T0 = 1_640_000_000_000
YEAR_MS = 365 * DAY_MS


def log_of(events: int, step_ms: int = 10_000) -> list[int]:
    return [T0 + step_ms * number for number in range(events)]


@pytest.mark.parametrize("place", [0, 7, -1])
@pytest.mark.parametrize("ahead_ms", [2 * DAY_MS, 30 * DAY_MS, 4 * YEAR_MS])
@pytest.mark.parametrize("events", [20, 500, 5_000])
@pytest.mark.parametrize("together", [True, False])
def test_an_event_far_ahead_of_the_log_does_not_move_its_clock(
    place: int, ahead_ms: int, events: int, together: bool
) -> None:
    times = log_of(events)
    times.insert(place % (events + 1), T0 + ahead_ms)
    clock = LogClock()
    for some in [times] if together else [[at] for at in times]:
        clock.observe(some)
    assert clock.now_ms() == log_of(events)[-1]
    assert clock.is_outlier(T0 + ahead_ms)


def test_several_outliers_do_not_move_the_clock() -> None:
    times = log_of(300)
    for number in range(20):
        times.insert(15 * number, T0 + YEAR_MS + number)
    clock = LogClock()
    clock.observe(times)
    assert clock.now_ms() == log_of(300)[-1]


def test_the_clock_follows_a_log_over_a_gap() -> None:
    clock = LogClock()
    clock.observe(log_of(2_000))
    clock.observe([at + YEAR_MS for at in log_of(2_000)])
    assert clock.now_ms() == log_of(2_000)[-1] + YEAR_MS


@given(st.lists(st.integers(0, 5 * HOUR_MS), min_size=1, max_size=40), st.integers(0, 2**32))
def test_within_some_hours_the_clock_shows_the_newest_time_whatever_the_order(ages: list[int], seed: int) -> None:
    times = [T0 - age for age in ages]
    random.Random(seed).shuffle(times)
    clock, shown = LogClock(), list[int]()
    for at in times:
        clock.observe([at])
        shown.append(clock.now_ms())
    assert shown == sorted(shown)
    assert shown[-1] == max(times)


def test_times_of_years_ago_do_not_turn_the_clock_back() -> None:
    clock = LogClock()
    clock.observe(log_of(2_000))
    clock.observe([T0 - YEAR_MS + at for at in range(5_000)])
    assert clock.now_ms() == log_of(2_000)[-1]
