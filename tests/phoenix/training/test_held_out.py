"""The held-out examples of a run, and the figures of models on them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from infra.ports.clock import DAY_MS, HOUR_MS
from phoenix.data.batches import Span
from phoenix.models.parameters import Params, initial_params
from phoenix.training import held_out
from phoenix.training.held_out import AUC, LEAST, LOG_LOSS, MOST, HeldOut, split_of
from tests.phoenix.evaluation.logs import BEGIN_MS, CLICK, VQV, log_drawn
from tests.phoenix.saved import TINY

SPAN = Span(BEGIN_MS + DAY_MS, BEGIN_MS + 5 * DAY_MS, {})
LOG = log_drawn(1)
PARAMS: Params = initial_params(TINY, 0)


@given(st.floats(0, 1), st.integers(0, 40), st.integers(0, 40))
@settings(deadline=None)
def test_the_newest_examples_of_a_span_are_held_out(share: float, since: int, hours: int) -> None:
    span = Span(BEGIN_MS + since * HOUR_MS, BEGIN_MS + (since + hours) * HOUR_MS, {})
    inside = LOG.at[(LOG.at >= span.since_ms) & (LOG.at < span.until_ms)]
    split = split_of(LOG, span, share)
    if split is None:
        newest = np.sort(inside)[len(inside) - max(1, round(share * len(inside))) :]
        assert round(share * len(inside)) == 0 or not (LOG.complete_at[np.isin(LOG.at, inside)] < newest[0]).any()
        return
    assert span.since_ms < split.since_ms < split.until_ms == span.until_ms
    assert len(split.evaluated) == round(share * len(inside)) <= MOST
    assert LOG.at[split.evaluated].min() > np.sort(inside)[-len(split.evaluated) - 1]


def test_no_more_than_enough_examples_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST", 100)
    split = split_of(LOG, SPAN, 0.5)
    assert split is not None
    assert len(split.evaluated) == 100


def test_figures_are_weighted_means_over_the_frequent_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of(LOG, SPAN, 0.2)
    assert split is not None
    predicted = np.random.default_rng(2).random((len(split.evaluated), 19)).astype(np.float32)
    monkeypatch.setattr(held_out, "predictions", lambda *_: predicted)
    labels = LOG.actions[split.evaluated]
    clicked, watched = labels[:, CLICK], labels[:, VQV]
    losses = [log_loss(labels[:, action], predicted[:, action].astype(float)) for action in (CLICK, VQV)]
    areas = [roc_auc_score(labels[:, action], predicted[:, action]) for action in (CLICK, VQV)]
    figures = HeldOut(split, TINY, {"click": 3.0, "vqv": 1.0, "favorite": 9.0}).figures(PARAMS)
    assert figures[LOG_LOSS] == pytest.approx((3 * losses[0] + losses[1]) / 4)
    assert figures[AUC] == pytest.approx(np.average(areas, weights=[clicked.sum(), watched.sum()]))
    assert HeldOut(split, TINY, {"vqv": 2.0}).figures(PARAMS) == pytest.approx({LOG_LOSS: losses[1], AUC: areas[1]})


def test_there_are_no_figures_for_rare_actions_or_unknown_labels() -> None:
    rare: Any = LOG._replace(actions=LOG.actions & (np.cumsum(LOG.actions, axis=0) < LEAST))
    split, unknown = split_of(rare, SPAN, 0.2), split_of(LOG, SPAN._replace(labelled_since={"click": 2**60}), 0.2)
    assert split is not None
    assert unknown is not None
    assert HeldOut(split, TINY, {"click": 1.0}).figures(PARAMS) == {}
    assert HeldOut(unknown, TINY, {"click": 1.0}).figures(PARAMS) == {}
