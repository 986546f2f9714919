"""The rules of admission control: pure arithmetic, no clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed_worker.serving.admission import MARGIN_MS, QUALITIES, QUEUED_MS, Admission

MAX_WAIT_MS = 10_000
LONG_MS = 30_000


@pytest.fixture
def admission() -> Admission:
    return Admission(MAX_WAIT_MS)


def test_a_request_that_waited_too_long_is_failed_with_its_wait(admission: Admission) -> None:
    assert admission.refusal(MAX_WAIT_MS, LONG_MS) is None
    assert admission.refusal(MAX_WAIT_MS + 2_300, LONG_MS) == ("failed", "overloaded: waited 12.3 s")


def test_a_request_past_its_deadline_is_expired_after_any_wait(admission: Admission) -> None:
    for waited_ms in (0, MAX_WAIT_MS + 1):
        refusal = admission.refusal(waited_ms, -1)
        assert refusal is not None
        assert refusal.status == "expired"


def test_a_request_with_a_deadline_before_the_expected_answer_is_expired(admission: Admission) -> None:
    for _ in range(100):
        admission.observe_service_time(500.0)
    assert admission.refusal(0, 500 + MARGIN_MS) is None
    refusal = admission.refusal(0, 499)
    assert refusal is not None
    assert refusal.status == "expired"


def test_an_estimate_that_refuses_every_request_falls(admission: Admission) -> None:
    for _ in range(100):
        admission.observe_service_time(5_000.0)
    refused = 0
    while admission.refusal(0, 200) is not None:
        admission.observe_service_time(1.0)  # a batch of refused requests
        refused += 1
    assert refused < 20


def test_quality_steps_down_while_requests_queue_and_then_recovers(admission: Admission) -> None:
    queued = [admission.quality(QUEUED_MS + 1) for _ in range(6)]
    assert queued == [*QUALITIES[1:], QUALITIES[-1], QUALITIES[-1]]
    assert admission.quality(QUEUED_MS // 2) == QUALITIES[-1]
    assert [admission.quality(0) for _ in range(6)] == [*QUALITIES[-2::-1], 1.0, 1.0]


def test_quality_steps_down_before_a_short_maximum_wait_is_reached() -> None:
    impatient = Admission(400)
    assert impatient.quality(201) < 1.0
    assert impatient.refusal(201, LONG_MS) is None


@given(st.lists(st.integers(0, 3 * QUEUED_MS)))
def test_quality_is_deterministic_and_changes_by_one_step(waits: list[int]) -> None:
    one, other = Admission(MAX_WAIT_MS), Admission(MAX_WAIT_MS)
    steps = [0]
    for wait_ms in waits:
        quality = one.quality(wait_ms)
        assert quality == other.quality(wait_ms)
        steps.append(QUALITIES.index(quality))
        assert abs(steps[-1] - steps[-2]) <= 1
        assert (steps[-1] > steps[-2]) <= (wait_ms > QUEUED_MS)
