import dataclasses
from typing import Any

import pytest

from feed_worker.parameters import CLASSIC, FORYOU, PRESETS, X_2026_08_12, Parameters
from thunder_ingest.events import ACTIONS, NEGATIVE_ACTIONS


def test_the_published_preset_has_the_published_totals() -> None:
    assert X_2026_08_12.positive_total == pytest.approx(43.32)
    assert X_2026_08_12.negative_total == pytest.approx(367.22)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_every_preset_counts_negative_actions_against_a_post(preset: Parameters) -> None:
    weights = preset.weights
    assert all((weights.get(action, 0.0) < 0) == (action in NEGATIVE_ACTIONS) for action in ACTIONS)


def test_the_default_weighs_every_action_and_the_classic_one_those_of_the_write_ups() -> None:
    assert set(FORYOU.weights) == set(ACTIONS)
    assert len(CLASSIC.weights) == 13


def test_a_misspelt_action_is_refused_by_name() -> None:
    misspelt: Any = {"favourite": 1.0}
    with pytest.raises(ValueError, match="favourite"):
        dataclasses.replace(FORYOU, weights=misspelt)


def test_the_continuous_weight_is_no_part_of_the_totals() -> None:
    more = dataclasses.replace(FORYOU, weights={**FORYOU.weights, "dwell_time": 1_000.0})
    assert more.positive_total == FORYOU.positive_total


@pytest.mark.parametrize(("size", "selected"), [(1, 50), (35, 50), (36, 52), (70, 100), (200, 286)])
def test_a_larger_feed_selects_proportionally_more(size: int, selected: int) -> None:
    assert FORYOU.selected_for(size) == selected
