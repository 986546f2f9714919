"""The 19 actions as model outputs: which of them are negative feedback, and their base rates before training."""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float32

from thunder_ingest.events import ACTION_INDEX, ACTIONS, NEGATIVE_ACTIONS, ActionName

ACTION_COUNT: Final = len(ACTIONS)
DISCRETE: Final = ACTION_COUNT - 1
"""Number of actions that are predicted as probabilities; the dwell time is the last action."""
DWELL_TIME: Final = ACTION_INDEX["dwell_time"]
MAX_DWELL_MS: Final = 30_000
"""Longest dwell time that the ranker predicts; a longer one is only another sign that the post was read."""

_BASE_RATE_OF: Final[dict[ActionName, float]] = {
    "favorite": 0.04,
    "reply": 0.006,
    "repost": 0.008,
    "photo_expand": 0.03,
    "click": 0.06,
    "profile_click": 0.01,
    "vqv": 0.05,
    "share": 0.003,
    "share_via_dm": 0.001,
    "share_via_copy_link": 0.001,
    "dwell": 0.3,
    "quote": 0.002,
    "quoted_click": 0.005,
    "follow_author": 0.002,
    "not_interested": 0.002,
    "block_author": 0.0003,
    "mute_author": 0.0004,
    "report": 0.0001,
}

BASE_RATES: Final[Float32[np.ndarray, " 18"]] = np.array([_BASE_RATE_OF[name] for name in ACTIONS[:DISCRETE]], "f4")
"""Probability of each discrete action on a shown post: the average prediction of an untrained ranker.

These are orders of magnitude, not measurements; no rates are published. Passive actions have a few per cent, active
ones a few per mille, negative feedback less. Training replaces them by the rates of the log.
"""
BASE_DWELL_MS: Final = 4_000.0
"""The average dwell time that an untrained ranker predicts."""

IS_NEGATIVE: Final[Bool[np.ndarray, " 19"]] = np.isin(ACTIONS, NEGATIVE_ACTIONS)
"""True for negative feedback: not_interested, block_author, mute_author and report."""


def log_odds(probability: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """The logit, the inverse of the sigmoid; computed in float64, so that every machine gets the same bits."""
    exact = probability.astype(np.float64)
    return np.log(exact / (1.0 - exact)).astype(np.float32)
