"""The 19 actions as the models see them: which are good news, and how often each happens before anything is known."""

from typing import Final

import numpy as np
from jaxtyping import Bool, Float32

from thunder_ingest.events import ACTION_INDEX, ACTIONS, NEGATIVE_ACTIONS, ActionName

ACTION_COUNT: Final = len(ACTIONS)
DISCRETE: Final = ACTION_COUNT - 1
"""The actions that are predicted as probabilities; after them comes the dwell time."""
DWELL_TIME: Final = ACTION_INDEX["dwell_time"]
MAX_DWELL_MS: Final = 30_000
"""The longest dwell the model predicts: longer ones say no more about a post than that it was read."""

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
"""How likely each discrete action is on a shown post: an untrained ranker's average prediction.

Orders of magnitude, not measurements: nothing is published. Passive actions are a few per cent, active ones a few per
mille, complaints below that. Training replaces them by what the log says.
"""
BASE_DWELL_MS: Final = 4_000.0
"""The same for the dwell time."""

IS_NEGATIVE: Final[Bool[np.ndarray, " 19"]] = np.isin(ACTIONS, NEGATIVE_ACTIONS)
"""The actions by which a viewer asks for less of something."""


def log_odds(probability: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """What a sigmoid turns back into the probability; computed in float64, so that every machine agrees."""
    exact = probability.astype(np.float64)
    return np.log(exact / (1.0 - exact)).astype(np.float32)
