"""Random model inputs of any size, and parts of them."""

import jax.numpy as jnp
import numpy as np

from infra.ports.clock import DAY_MS
from phoenix.features.inputs import SURFACES, CandidateInputs, History, PostInputs
from phoenix.models.configs import ModelConfig
from phoenix.models.parameters import Params, initial_params
from thunder_ingest.counts.columns import COUNT_COLUMNS

TOLERANCE = 2e-5
"""Relative tolerance. Shapes decide the order of float32 sums, so equal scores differ by rounding."""
SMALLEST = ModelConfig(
    name="tiny",
    dim=32,
    layers=1,
    heads=4,
    kv_heads=2,
    head_dim=8,
    history=12,
    tokens=8,
    table_dim=16,
    embed_dim=64,
    user_rows=500,
    post_rows=1_000,
    author_rows=500,
    token_rows=4_000,
    batch_buckets=(1, 4),
    candidate_buckets=(4, 16),
    post_buckets=(4, 32),
)
"""A configuration that compiles within seconds."""


def begun_params(config: ModelConfig, seed: int = 7) -> Params:
    """Parameters as after some training: the ranker's head, which starts at zero, reads the transformer."""
    params = initial_params(config, seed)
    head = params.ranker["ranker/~/head"]
    drawn = np.random.default_rng(seed).normal(0.0, 0.3 * config.dim**-0.5, head["w"].shape).astype(np.float32)
    return params._replace(ranker={**params.ranker, "ranker/~/head": {**head, "w": jnp.asarray(drawn)}})


def some_history(config: ModelConfig, viewers: int, positions: int, seed: int = 0) -> History:
    rng = np.random.default_rng(seed)
    flat = (viewers, positions)
    return History(
        user_id=rng.integers(1, 2**62, viewers),
        post_id=rng.integers(1, 2**62, flat),
        author_id=rng.integers(1, 2**62, flat),
        tokens=rng.integers(0, 2**32, (*flat, config.tokens), np.uint32),
        actions=rng.random((*flat, 19)) < 0.1,
        recorded=rng.random((*flat, 19)) < 0.9,
        dwell_ms=rng.integers(0, 60_000, flat).astype(np.float32),
        age_ms=rng.integers(0, 9 * DAY_MS, flat).astype(np.float32),
        surface=rng.integers(0, SURFACES, flat).astype(np.uint8),
        video_ms=rng.integers(0, 90_000, flat, np.int32),
        mask=np.ones(flat, bool),
    )


def some_candidates(config: ModelConfig, viewers: int, count: int, seed: int = 0) -> CandidateInputs:
    rng = np.random.default_rng(seed + 1_000)
    flat = (viewers, count)
    return CandidateInputs(
        post_id=rng.integers(1, 2**62, flat),
        author_id=rng.integers(1, 2**62, flat),
        tokens=rng.integers(0, 2**32, (*flat, config.tokens), np.uint32),
        video_ms=rng.integers(0, 90_000, flat, np.int32),
        photos=rng.integers(0, 5, flat, np.int32),
        age_ms=rng.integers(0, 2 * DAY_MS, flat),
        totals=rng.integers(0, 2_000, (*flat, COUNT_COLUMNS), np.int32),
        asked_at=rng.integers(0, 7 * DAY_MS, flat),
        surface=rng.integers(0, SURFACES, viewers).astype(np.uint8),
        mask=np.ones(flat, bool),
    )


def some_posts(config: ModelConfig, count: int, seed: int = 0) -> PostInputs:
    rng = np.random.default_rng(seed + 2_000)
    return PostInputs(
        author_id=rng.integers(1, 2**62, count),
        tokens=rng.integers(0, 2**32, (count, config.tokens), np.uint32),
        video_ms=rng.integers(0, 90_000, count, np.int32),
        photos=rng.integers(0, 5, count, np.int32),
    )


def picked(candidates: CandidateInputs, columns: list[int]) -> CandidateInputs:
    """The candidates of these columns, in this order."""
    return CandidateInputs(*(column[:, columns] if column.ndim > 1 else column for column in candidates))


def viewer(history: History, row: int) -> History:
    return History(*(column[row : row + 1] for column in history))


def candidates_of(candidates: CandidateInputs, row: int) -> CandidateInputs:
    return CandidateInputs(*(column[row : row + 1] for column in candidates))


def padded_in_front(history: History, missing: int) -> History:
    """The same history after masked positions with other content."""
    other = some_history_like(history, missing)
    together = (np.concatenate([a, b], axis=1) for a, b in zip(other[1:], history[1:], strict=True))
    return History(history.user_id, *together)


def some_history_like(history: History, positions: int) -> History:
    repeated = (np.repeat(column[:, :1], positions, axis=1) for column in history[1:])
    return History(history.user_id, *repeated)._replace(mask=np.zeros((len(history.user_id), positions), bool))
