"""The seams of the pipeline: what it needs of the models and of the users' state, and where tests plug in."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float32

from phoenix.features.inputs import CandidateInputs, History
from phoenix.models.configs import ModelConfig
from thunder_ingest.users.state import UserState


class ModelEngine(Protocol):
    """The two models of one version; `phoenix.serving.engine.Phoenix` is one."""

    @property
    def version(self) -> str:
        """Which parameters these are; vectors of another version do not compare."""

    @property
    def config(self) -> ModelConfig:
        """The sizes."""

    def embed_users(self, history: History, /) -> Float32[np.ndarray, "B d"]:
        """A unit vector for each viewer."""

    def score(self, history: History, candidates: CandidateInputs, /) -> Float32[np.ndarray, "B C 19"]:
        """Probabilities of the actions, then dwell in ms."""


class UserStateStore(Protocol):
    """The users' state, in published forms of ids; `thunder_ingest.users.redis_form.UserStates` is one."""

    def read(self, users: Sequence[str], /) -> list[UserState]:
        """The state of each user, an empty one where nothing is known."""

    def add_served(self, user: str, post_ids: Sequence[int], at_ms: int, suffix: str, /) -> None:
        """Remember posts as served; again with the same suffix it changes nothing."""
