import numpy as np
import pytest

from infra.ports.clock import DAY_MS
from phoenix.evaluation.split import Split
from tests.phoenix.evaluation.logs import BEGIN_MS, log_drawn
from thunder_ingest.events import ActionName

SINCE_MS = BEGIN_MS + 4 * DAY_MS


def split(**labelled_since: int) -> Split:
    since: dict[ActionName, int] = labelled_since  # type: ignore[assignment]
    return Split(log_drawn(1), BEGIN_MS + DAY_MS, SINCE_MS, BEGIN_MS + 5 * DAY_MS, since)


def test_rows_completed_after_the_split_are_not_in_the_past() -> None:
    cut = split()
    late = np.flatnonzero((cut.log.at < SINCE_MS) & (cut.log.complete_at >= SINCE_MS))
    moved = cut.log._replace(complete_at=np.where(cut.log.at < SINCE_MS, SINCE_MS, cut.log.complete_at))
    assert not np.isin(late, cut.past).any()
    assert (cut.log.complete_at[cut.past] < SINCE_MS).all()
    with pytest.raises(ValueError, match="no rows in the training span"):
        Split(moved, cut.trained_since_ms, SINCE_MS, cut.until_ms, {})


def test_spans_are_half_open() -> None:
    cut = split()
    assert (cut.log.at[cut.trained] >= cut.trained_since_ms).all()
    assert ((cut.log.at[cut.evaluated] >= SINCE_MS) & (cut.log.at[cut.evaluated] < cut.until_ms)).all()
    edge = Split(cut.log, int(cut.log.at.min()), int(cut.log.at[7]), int(cut.log.at[7]) + 1, {})
    assert 7 in edge.evaluated


def test_rows_before_the_recording_of_an_action_are_no_examples_of_it() -> None:
    cut = split(click=BEGIN_MS + 3 * DAY_MS)
    assert (cut.log.at[cut.labelled("click", cut.past)] >= BEGIN_MS + 3 * DAY_MS).all()
    assert len(cut.labelled("vqv", cut.past)) == len(cut.past)
    labels = cut.labels("click", cut.labelled("click", cut.trained))
    assert cut.rate("click") == pytest.approx(labels.mean())


def test_frequent_actions_have_enough_positives_and_negatives_in_both_spans() -> None:
    assert split().frequent_actions(20) == ["click", "vqv"]
    assert split(click=SINCE_MS).frequent_actions(20) == ["vqv"]
    assert split().frequent_actions(10_000) == []


def test_times_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="must come after the training span"):
        Split(log_drawn(1), SINCE_MS, SINCE_MS, SINCE_MS + DAY_MS, {})
    with pytest.raises(ValueError, match="no rows in the evaluated span"):
        Split(log_drawn(1), BEGIN_MS, BEGIN_MS + 30 * DAY_MS, BEGIN_MS + 31 * DAY_MS, {})
