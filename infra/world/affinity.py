"""Ground truth of the generated world: the affinity of each account for each post. Models must learn it from the log.

Glossary of shapes:

    u: viewers
    p: posts
    *s: pairs of a viewer and a post, any axes
"""

from typing import Final

import numpy as np

from infra.world.people import Accounts, Bools, Floats, Ints
from infra.world.posts import Posts

FOREIGN: Final = np.float32(0.1)
"""Factor of the affinity for a post in a language that the viewer does not read."""


class Affinity:
    """Affinity, 0 … 1: preference for the post's topics × quality of author and post × language factor.

    Attributes:
        mix: the share of each topic in each post, [p, topics].

    """

    def __init__(self, accounts: Accounts, posts: Posts, topics: int) -> None:
        self._accounts = accounts
        self.mix: Floats = posts.mix(topics)
        self._language = posts.language
        self._worth: Floats = np.sqrt(accounts.quality[posts.author[posts.content]] * posts.quality)

    def pairs(self, viewers: Ints, posts: Ints, moment: Floats) -> Floats:
        """Return the affinity [*s] of viewers [*s] for posts [*s] at moments [*s], from 0 (start) to 1 (end)."""
        match = np.einsum("...k,...k->...", self._accounts.tastes(viewers, moment), self.mix[posts])
        return self._adjusted(match, posts, self._accounts.reads[viewers, self._language[posts]])

    def matrix(self, viewers: Ints, posts: Ints, moment: float = 1.0) -> Floats:
        """Return the affinity [u, p] of each of `viewers` [u] for each of `posts` [p]."""
        match = self._accounts.tastes(viewers, moment) @ self.mix[posts].T
        return self._adjusted(match, posts, self._accounts.reads[viewers][:, self._language[posts]])

    def _adjusted(self, match: Floats, posts: Ints, readable: Bools) -> Floats:
        adjusted: Floats = match * self._worth[posts] * np.where(readable, np.float32(1), FOREIGN)
        return adjusted


def gate(affinity: Floats) -> Floats:
    """Return the propensity to act, 0 … 1: a logistic function of the affinity, steep around 0.15."""
    opened: Floats = 1 / (1 + np.exp(-14 * (affinity - np.float32(0.15))))
    return opened
