"""Serving: the two models behind one face, compiled ahead of time for a few sizes and never again.

A request of any size is padded to a bucket, or cut into several where it is larger than the largest. A viewer's history
is encoded once; candidates are scored against it a chunk at a time. While the device works on a chunk the host hashes
the next one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import xxhash
from jax import Array
from jaxtyping import Float32

from phoenix.actions import ACTION_COUNT
from phoenix.configs import ModelConfig, config_named
from phoenix.inputs import (
    CandidateInputs,
    History,
    PostInputs,
    candidate_rows,
    history_rows,
    post_rows,
)
from phoenix.ranker import Ranker
from phoenix.retrieval import TwoTower

__all__ = ["PARTS", "CandidateInputs", "History", "Part", "Phoenix", "PostInputs"]

Part = Literal["rank", "retrieve", "embed"]
PARTS: Final[tuple[Part, ...]] = ("rank", "retrieve", "embed")
"""What a process may need compiled: scoring candidates, embedding viewers, embedding posts."""

Rows = TypeVar("Rows", bound=tuple[Any, ...])


class Params(NamedTuple):
    """The parameters of both models."""

    ranker: hk.Params
    two_tower: hk.Params


class Phoenix:
    """Both models of one version. To be called from one thread at a time.

    Args:
        config: their sizes.
        params: their parameters.
        origin: where the parameters come from, such as a seed or a checkpoint; part of the version.

    Attributes:
        config: their sizes.
        version: names configuration, origin and a digest of all parameters; equal versions compute alike.
        traces: how many functions have been traced so far; does not grow any more after `warm_up`.

    """

    def __init__(self, config: ModelConfig, params: Params, origin: str) -> None:
        self.config = config
        self.version = f"{config.name}-{origin}-{_digest(params)}"
        self.traces = 0
        self._params = jax.device_put(params)
        self._compiled: dict[tuple[str, int, int], Callable[..., Any]] = {}
        ranker, two_tower = _ranker(config).apply, _two_tower(config).apply
        self._functions = {
            "encode": (ranker.encode, self._params.ranker),
            "score": (ranker.score, self._params.ranker),
            "users": (two_tower.users, self._params.two_tower),
            "posts": (two_tower.posts, self._params.two_tower),
        }

    @classmethod
    def seeded(cls, config: ModelConfig | str, seed: int) -> Self:
        """An untrained model, the same on every machine; raises ValueError for an unknown configuration's name."""
        sizes = config_named(config) if isinstance(config, str) else config
        return cls(sizes, _initial(sizes, seed), f"seed{seed}")
