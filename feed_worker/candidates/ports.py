"""The protocols of the pipeline's dependencies: model engine and users' state. Tests implement them with stubs."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float32

from phoenix.features.inputs import CandidateInputs, History
from phoenix.models.configs import ModelConfig
from thunder_ingest.users.state import UserState


class ModelEngine(Protocol):
    """Ranker and two-tower model of one version; implemented by `phoenix.serving.engine.Phoenix`."""

    @property
    def version(self) -> str:
        """The version of the parameters; vectors of different versions cannot be compared."""

    @property
    def config(self) -> ModelConfig:
        """The models' configuration."""

    def embed_users(self, history: History, /) -> Float32[np.ndarray, "B d"]:
        """A unit vector for each viewer."""

    def score(self, history: History, candidates: CandidateInputs, /) -> Float32[np.ndarray, "B C 19"]:
        """Probabilities of the actions, then dwell in ms, of each candidate."""


class PageStore(Protocol):
    """The pages that viewers have read; implemented by `feed_worker.serving.feed_store.FeedStore`."""

    def first_pages(self, requests: Sequence[tuple[str, str]], /) -> list[int]:
        """For each request, given by user and id, the time under which its first page was served; 0 if unknown."""


class UserStateStore(Protocol):
    """The users' state by published id; implemented by `thunder_ingest.users.redis_form.UserStates`."""

    def read(self, users: Sequence[str], /) -> list[UserState]:
        """The state of each user; an empty state for an unknown user."""

    def add_served(self, user: str, post_ids: Sequence[int], at_ms: int, request_id: str, /) -> None:
        """Store posts as served at `at_ms`; idempotent for one `suffix`."""
