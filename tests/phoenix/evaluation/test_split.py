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


def test_what_became_known_only_later_is_not_of_the_past_though_it_was_shown_before() -> None:
    cut = split()
    late = np.flatnonzero((cut.log.at < SINCE_MS) & (cut.log.complete_at >= SINCE_MS))
    moved = cut.log._replace(complete_at=np.where(cut.log.at < SINCE_MS, SINCE_MS, cut.log.complete_at))
    assert not np.isin(late, cut.past).any()
    assert (cut.log.complete_at[cut.past] < SINCE_MS).all()
    with pytest.raises(ValueError, match="nothing in the span that is trained on"):
        Split(moved, cut.trained_since_ms, SINCE_MS, cut.until_ms, {})


def test_the_spans_include_their_beginnings_and_not_their_ends() -> None:
    cut = split()
    assert (cut.log.at[cut.trained] >= cut.trained_since_ms).all()
    assert ((cut.log.at[cut.judged] >= SINCE_MS) & (cut.log.at[cut.judged] < cut.until_ms)).all()
    edge = Split(cut.log, int(cut.log.at.min()), int(cut.log.at[7]), int(cut.log.at[7]) + 1, {})
    assert 7 in edge.judged


def test_rows_from_before_an_action_was_recorded_are_no_examples_of_it() -> None:
    cut = split(click=BEGIN_MS + 3 * DAY_MS)
    assert (cut.log.at[cut.labelled("click", cut.past)] >= BEGIN_MS + 3 * DAY_MS).all()
    assert len(cut.labelled("vqv", cut.past)) == len(cut.past)
    labels = cut.labels("click", cut.labelled("click", cut.trained))
    assert cut.rate("click") == pytest.approx(labels.mean())


def test_an_action_is_judged_where_both_spans_have_enough_with_and_without_it() -> None:
    assert split().judgeable(20) == ["click", "vqv"]
    assert split(click=SINCE_MS).judgeable(20) == ["vqv"]
    assert split().judgeable(10_000) == []


def test_times_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="must come after"):
        Split(log_drawn(1), SINCE_MS, SINCE_MS, SINCE_MS + DAY_MS, {})
    with pytest.raises(ValueError, match="nothing in the span that is judged"):
        Split(log_drawn(1), BEGIN_MS, BEGIN_MS + 30 * DAY_MS, BEGIN_MS + 31 * DAY_MS, {})
