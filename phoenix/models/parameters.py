"""The parameters of both models: drawn from a seed, their shapes, their digest. Serving and training import them."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import haiku as hk
import jax
import numpy as np
import xxhash

from phoenix.features.inputs import (
    blank_candidates,
    blank_history,
    blank_posts,
    candidate_rows,
    history_rows,
    post_rows,
)
from phoenix.models.configs import ModelConfig
from phoenix.models.initialisers import drawn
from phoenix.models.ranker import Ranker
from phoenix.models.two_tower import TwoTower

_MEANING: Final = 3
"""Part of every digest. Raise it when the same parameters get another meaning, so that model versions differ."""


class Params(NamedTuple):
    """The parameters of both models."""

    ranker: hk.Params
    two_tower: hk.Params


def initial_params(config: ModelConfig, seed: int) -> Params:
    """Draw both models' parameters from a seed: the same bits on every machine."""
    return Params(*(drawn(model, seed, *rows) for model, *rows in _models(config)))


def abstract_params(config: ModelConfig) -> Params:
    """The shapes and dtypes of both models' parameters, as `jax.ShapeDtypeStruct`."""
    key = jax.random.key(0)
    return Params(*(jax.eval_shape(hk.transform(model).init, key, *rows) for model, *rows in _models(config)))


def pure(function: Callable[..., Any]) -> Callable[..., Any]:
    """The pure function `apply(params, *inputs)` of a function that builds Haiku modules and draws no numbers."""
    transformed: hk.Transformed = hk.without_apply_rng(hk.transform(function))
    return transformed.apply


def digest(tree: Any) -> str:
    """Eight hexadecimal digits that change with the name, shape, dtype or value of any leaf."""
    hashed = xxhash.xxh3_64(b"%d" % _MEANING)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        values = np.ascontiguousarray(leaf)
        hashed.update(f"{jax.tree_util.keystr(path)} {np.shape(leaf)} {values.dtype}".encode())
        hashed.update(values.data)
    return hashed.hexdigest()[:8]


def not_finite(tree: Any) -> str | None:
    """The name of the first leaf with a value that is not finite, or None."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        # a sum in double precision is finite for any finite floats, and needs no array of flags beside a large table
        with np.errstate(invalid="ignore"):  # of infinities of both signs
            total = np.sum(np.asarray(leaf), dtype=np.float64)
        if not np.isfinite(total):
            return jax.tree_util.keystr(path)
    return None


def _models(config: ModelConfig) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Each model as a function that uses all its parameters, with inputs for it."""
    history = history_rows(config, blank_history(config, 1))
    candidates = candidate_rows(config, blank_candidates(config, 1, 1), 0, 1)
    posts = post_rows(config, blank_posts(config, 1))
    return (lambda *rows: Ranker(config)(*rows), history, candidates), (
        lambda *rows: TwoTower(config)(*rows),
        history,
        posts,
    )
