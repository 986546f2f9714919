import dataclasses
import math
from typing import Any

import msgspec
import pytest

from feed_worker.parameters import (
    CLASSIC,
    FORYOU,
    PRESETS,
    X_2026_08_12,
    Parameters,
    ParametersError,
    changed_names,
    overridden,
)
from thunder_ingest.events import ACTIONS, NEGATIVE_ACTIONS


def test_the_published_preset_has_the_published_totals() -> None:
    assert X_2026_08_12.positive_total == pytest.approx(43.32)
    assert X_2026_08_12.negative_total == pytest.approx(367.22)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_every_preset_counts_negative_actions_against_a_post(preset: Parameters) -> None:
    weights = preset.weights
    assert all((weights.get(action, 0.0) < 0) == (action in NEGATIVE_ACTIONS) for action in ACTIONS)


def test_the_default_weighs_every_action_and_classic_those_of_the_write_ups() -> None:
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


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_every_preset_is_within_the_valid_ranges_of_overrides(preset: Parameters) -> None:
    assert msgspec.convert(msgspec.to_builtins(preset), Parameters) == preset


def test_the_published_preset_boosts_new_authors_and_re_ranks_and_classic_does_neither() -> None:
    assert (X_2026_08_12.new_author_boost, X_2026_08_12.dpp_pool, X_2026_08_12.dpp_theta) == (True, 150, 0.65)
    assert (CLASSIC.new_author_boost, CLASSIC.dpp_pool) == (False, 0)
    assert (FORYOU.new_author_boost, FORYOU.dpp_pool) == (True, 0)


def test_overrides_replace_values_merge_weights_and_appear_in_the_name() -> None:
    changed = overridden(FORYOU, {"oon_factor": 1, "unsafe_labels": ["spam"], "weights": {"reply": 3}})
    assert (changed.oon_factor, changed.unsafe_labels) == (1.0, frozenset({"spam"}))
    assert changed.weights == {**FORYOU.weights, "reply": 3.0}
    assert changed.name == 'foryou oon_factor=1 unsafe_labels=["spam"] weights.reply=3'
    assert overridden(FORYOU, {}) is FORYOU


def test_each_changed_weight_has_its_own_name() -> None:
    assert changed_names({"top_k": 1, "weights": {"reply": 1, "click": 2}}) == {
        "top_k",
        "weights.reply",
        "weights.click",
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"oonfactor": 1}, "no parameter 'oonfactor'; there are weights, unpredicted_weights, "),
        ({"name": "mine"}, "no parameter 'name'"),
        ({"checkpoint": "/there"}, "no parameter 'checkpoint'"),
        ({"oon_factor": -0.1}, "Expected `float` >= 0.0 - at `oon_factor`"),
        ({"oon_factor": math.nan}, "Expected `float` >= 0.0 - at `oon_factor`"),
        ({"author_diversity_decay": 1.1}, "Expected `float` <= 1.0 - at `author_diversity_decay`"),
        ({"dpp_theta": 1}, "Expected `float` < 1.0 - at `dpp_theta`"),
        ({"top_k": 0}, "Expected `int` >= 1 - at `top_k`"),
        ({"top_k": 1.5}, "Expected `int`, got `float` - at `top_k`"),
        ({"new_author_boost": 1}, "Expected `bool`, got `int` - at `new_author_boost`"),
        ({"weights": {"favourite": 1}}, "Invalid enum value 'favourite' - at `key` in `weights`"),
        ({"weights": {"reply": "much"}}, "Expected `float`, got `str` - at `weights[...]`"),
        ({"weights": [1]}, "Expected `object`, got `array` - at `weights`"),
        ({"weights": {"reply": math.inf}}, "Expected `float` <= 1000000.0 - at `weights[...]`"),
    ],
)
def test_an_invalid_override_is_refused_with_one_line(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ParametersError) as error:
        overridden(FORYOU, overrides)
    assert str(error.value).startswith(message)
    assert len(str(error.value).splitlines()) == 1
