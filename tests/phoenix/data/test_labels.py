"""The estimated start of an action's recording, with rare actions and with gaps by chance."""

from typing import Any, cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix.data.impressions import Log
from phoenix.data.labels import recorded_since
from thunder_ingest.events import ACTION_INDEX, ACTIONS, ActionName

T0 = 1_700_000_000_000
IMPRESSIONS = 5_000


def log_with(done: dict[ActionName, np.ndarray], seed: int = 0) -> Log:
    """A log of impressions a second apart; `done` has the actions on them by time."""
    order = np.random.default_rng(seed).permutation(IMPRESSIONS)
    actions = np.zeros((IMPRESSIONS, len(ACTIONS)), bool)
    for action, rows in done.items():
        actions[:, ACTION_INDEX[action]] = rows[order]
    at = T0 + order.astype(np.int64) * 1_000
    none = cast(Any, None)
    return Log(none, none, none, at, none, none, actions, none)


def taken(seed: int, rate: float, begin: int = 0) -> np.ndarray:
    """An action that follows impressions at random, from the impression `begin` on."""
    done = np.random.default_rng(seed).random(IMPRESSIONS) < rate
    done[:begin] = False
    return done


@given(seed=st.integers(0, 2**16), rate=st.floats(0.0, 1.0))
@settings(deadline=None)
def test_an_action_recorded_from_the_beginning_is_left_out_even_if_it_is_rare(seed: int, rate: float) -> None:
    assert recorded_since(log_with({"click": taken(seed, rate)}, seed)) == {}


@given(seed=st.integers(0, 2**16), rate=st.floats(0.05, 1.0), begin=st.integers(2_000, 4_000), stray=st.booleans())
@settings(deadline=None)
def test_the_start_of_an_action_is_found(seed: int, rate: float, begin: int, stray: bool) -> None:
    done = taken(seed, rate, begin)
    done[5] |= stray
    found = recorded_since(log_with({"click": done}, seed))
    assert found == {"click": T0 + 1_000 * (begin + int(np.argmax(done[begin:])))}


@given(seed=st.integers(0, 2**16))
@settings(deadline=None)
def test_actions_that_start_together_get_one_time_even_if_some_are_rare(seed: int) -> None:
    rates: dict[ActionName, float] = {"click": 0.4, "reply": 0.03, "vqv": 0.5}
    done = {action: taken(seed + place, rate, 3_000) for place, (action, rate) in enumerate(rates.items())}
    found = recorded_since(log_with({**done, "favorite": taken(seed, 0.02)}, seed))
    assert found.keys() == rates.keys()
    assert len(set(found.values())) == 1


def test_actions_that_start_at_different_times_get_different_times() -> None:
    found = recorded_since(log_with({"click": taken(1, 0.5, 1_000), "vqv": taken(2, 0.5, 2_000)}))
    assert found["click"] < found["vqv"]


def test_a_log_without_actions_has_no_starts() -> None:
    assert recorded_since(log_with({})) == {}
