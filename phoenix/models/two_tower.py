"""Retrieval: two towers that meet in one space, so that a viewer's nearest posts are those worth ranking.

Glossary of shapes:

    B: viewers of a batch
    H: history positions, newest last
    n: posts
    T: text tokens of a post
    K: hashed rows of an id
    D: width of the trunk
    E: width of the vectors
    A: the 19 actions

Both towers begin with the same content of a post, its author and its words in shared tables, and end in unit vectors.
There is no user id and no post id: a post must be found when nobody has seen it, and a viewer's taste is what the
history says. The user tower is the sum of two readings of the history: the posts' content, weighted by what was done to
each, and what the transformer makes of it. The candidate tower is the content, and what a small network makes of it.

Untrained, it already means something. Random vectors of words hardly overlap, so posts of like words and authors lie
near each other. The learned action weights begin at: what was engaged with attracts, what was passed over attracts a
little, what was complained about repels. And the two networks begin as small additions. So an untrained index finds
posts in the words of those that the viewer liked. Training may move all of it.
"""

from typing import Final

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from phoenix.features.actions import ACTION_COUNT, IS_NEGATIVE
from phoenix.features.inputs import LOG_BUCKETS, PHOTO_BUCKETS, SURFACES, VIDEO_BUCKETS, HistoryRows, PostRows
from phoenix.models.configs import ModelConfig
from phoenix.models.layers import HashTable, linear, masked_mean, signed_actions, unit
from phoenix.models.transformer import Transformer

_AUTHOR_SHARE: Final = 1.0
"""How much of a post's first vector is who wrote it, where 1.0 is what was written.

As much: in the generated world, half of that finds posts of clearly less affinity, and twice of it hardly better ones.
"""
_NETWORK_SHARE: Final = 0.1
"""How much the networks add before they have learned anything."""
_TEMPERATURE: Final = 0.05
"""Where training begins: cosines lie so close together that undivided they would tell posts hardly apart."""
_PASSED_OVER: Final = 0.1
"""The first weight of a position without an action; each action adds or takes away 1.0."""


class TwoTower(hk.Module):
    """Embeds viewers and posts; the methods share the tables."""

    def __init__(self, config: ModelConfig, name: str = "two_tower") -> None:
        super().__init__(name)
        width, trunk = config.embed_dim, config.dim
        self._authors = HashTable(config.author_rows, width, name="authors")
        self._tokens = HashTable(config.token_rows, width, name="tokens")
        self._video = HashTable(VIDEO_BUCKETS, width, name="video")
        self._photos = HashTable(PHOTO_BUCKETS, width, name="photos")
        self._post_hidden = linear(2 * width, 3 * width, name="post_hidden")
        self._post_out = linear(width, 2 * width, name="post_out")
        self._content = linear(trunk, width, name="content", gain=width**0.5)  # content has length 1, not variance 1
        self._actions = linear(trunk, ACTION_COUNT, name="actions")
        self._dwell = HashTable(LOG_BUCKETS, trunk, name="dwell")
        self._age = HashTable(LOG_BUCKETS, trunk, name="age")
        self._surface = HashTable(SURFACES, trunk, name="surface")
        self._transformer = Transformer(config)
        self._user_out = linear(width, trunk, name="user_out")

    def __call__(
        self, history: HistoryRows, posts: PostRows
    ) -> tuple[Float[Array, "B E"], Float[Array, "n E"], Float[Array, ""]]:
        """Both towers, and their temperature."""
        return self.embed_users(history), self.embed_posts(posts), self.log_temperature()

    def log_temperature(self) -> Float[Array, ""]:
        """The logarithm of what training divides the towers' products by."""
        return hk.get_parameter("log_temperature", [], init=hk.initializers.Constant(np.log(_TEMPERATURE)))

    def embed_posts(self, posts: PostRows) -> Float[Array, "n E"]:
        """The candidate tower: unit vectors."""
        author, text = unit(self._authors.mean(posts.author)), unit(self._tokens.mean(posts.tokens))
        media = self._video(posts.video) + self._photos(posts.photos)
        hidden = self._post_hidden(jnp.concatenate([author, text, unit(media)], axis=-1))
        learned = unit(self._post_out(jax.nn.silu(hidden)))
        return unit(self._mix(author, text) + self._share("post_network", _NETWORK_SHARE) * learned)

    def embed_users(self, history: HistoryRows) -> Float[Array, "B E"]:
        """The user tower: unit vectors, and zeros for a viewer without a history."""
        content = self._content_of(history.author, history.tokens)
        engaged = unit(jnp.sum(content * self._weights(history)[..., None], axis=-2))
        learned = unit(self._read(history, content))
        return unit(engaged + self._share("user_network", _NETWORK_SHARE) * learned)

    def _content_of(self, author: Int[Array, "*n K"], tokens: Int[Array, "*n T"]) -> Float[Array, "*n E"]:
        return unit(self._mix(unit(self._authors.mean(author)), unit(self._tokens.mean(tokens))))

    def _mix(self, author: Float[Array, "*n E"], text: Float[Array, "*n E"]) -> Float[Array, "*n E"]:
        return self._share("author", _AUTHOR_SHARE) * author + self._share("text", 1.0) * text

    def _weights(self, history: HistoryRows) -> Float[Array, "B H"]:
        """How strongly each position attracts, or repels."""
        first = hk.initializers.Constant(np.where(IS_NEGATIVE, -1.0, 1.0))
        of_action = hk.get_parameter("action_weights", [ACTION_COUNT], init=first)
        weights = history.actions.astype(jnp.float32) @ of_action + self._share("passed_over", _PASSED_OVER)
        return jnp.where(history.mask, weights, 0.0)

    def _read(self, history: HistoryRows, content: Float[Array, "B H E"]) -> Float[Array, "B E"]:
        """The history through the transformer, averaged."""
        positions = np.arange(history.mask.shape[1]) - history.mask.shape[1] + 1
        tokens = (
            self._content(content)
            + self._actions(signed_actions(history.actions))
            + self._dwell(history.dwell)
            + self._age(history.age)
            + self._surface(history.surface)
        )
        hidden, _ = self._transformer.encode(tokens, positions, history.mask)
        read: Array = self._user_out(masked_mean(hidden, history.mask))
        return read

    def _share(self, name: str, first: float) -> Float[Array, ""]:
        return hk.get_parameter(f"{name}_share", [], init=hk.initializers.Constant(first))
