"""The truth of the generated world: how much each account likes each post. Models are to find it out.

Shapes: u viewers, p posts, k topics; s pairs of one viewer and one post, in any number of dimensions.
"""

from typing import Final

import numpy as np

from infra.world.people import Accounts, Bools, Floats, Ints
from infra.world.posts import Posts

FOREIGN: Final = np.float32(0.1)
"""What is left of the affinity for a post in a language that the viewer does not read."""


class Affinity:
    """Taste for the post's topics, times how good author and post are, times whether the viewer can read it; 0 … 1."""

    def __init__(self, accounts: Accounts, posts: Posts, topics: int) -> None:
        self._accounts = accounts
        self._mix = posts.mix(topics)
        self._language = posts.language
        self._worth: Floats = np.sqrt(accounts.quality[posts.author[posts.content]] * posts.quality)

    def pairs(self, viewers: Ints, posts: Ints, moment: Floats) -> Floats:
        """Affinity [s] of `viewers` [s] for `posts` [s] at `moment` [s], 0 as the world begins and 1 as it ends."""
        match = np.einsum("...k,...k->...", self._accounts.tastes(viewers, moment), self._mix[posts])
        return self._adjusted(match, posts, self._accounts.reads[viewers, self._language[posts]])

    def matrix(self, viewers: Ints, posts: Ints, moment: float = 1.0) -> Floats:
        """Affinity [u, p] of each of `viewers` [u] for each of `posts` [p]."""
        match = self._accounts.tastes(viewers, moment) @ self._mix[posts].T
        return self._adjusted(match, posts, self._accounts.reads[viewers][:, self._language[posts]])

    def _adjusted(self, match: Floats, posts: Ints, readable: Bools) -> Floats:
        adjusted: Floats = match * self._worth[posts] * np.where(readable, np.float32(1), FOREIGN)
        return adjusted


def gate(affinity: Floats) -> Floats:
    """How near a viewer is to acting, 0 … 1: steep around a middling affinity."""
    opened: Floats = 1 / (1 + np.exp(-14 * (affinity - np.float32(0.15))))
    return opened
