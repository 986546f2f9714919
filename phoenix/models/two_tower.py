"""Retrieval: a two-tower model (Yi et al. 2019). The posts nearest to a viewer in its vector space are worth ranking.

Shapes: see `phoenix.features.inputs`; D is the width of the transformer, E that of tables and vectors.

Both towers start from the content of a post: its author and its words, in shared tables. Both return unit vectors. As
in the published Phoenix, there is no user id and no post id: retrieval must find a post before anyone has seen it, and
the history represents the viewer's taste. The user tower adds two readings of the history: the posts' content, weighted
by the actions on each, and the transformer's output. The candidate tower adds the content and the output of a small
network.

An untrained model already retrieves usefully. Random word vectors are nearly orthogonal, so posts with similar words
and authors are neighbours. The action weights start so that engaged posts attract, passed-over posts attract a little,
and negative feedback repels. Both networks start with a small share. Training can change all of this.
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
"""Initial weight of the author in a post's vector; the text has 1.0.

In the generated world, half of it retrieves posts of clearly less affinity, and twice of it hardly better ones.
"""
_NETWORK_SHARE: Final = 0.1
"""Initial weight of the networks' outputs."""
_TEMPERATURE: Final = 0.05
"""Initial temperature: cosines differ so little that, without division by it, all posts get nearly the same softmax."""
_PASSED_OVER: Final = 0.1
"""Initial weight of a history position without an action; each action adds or subtracts 1.0."""


class TwoTower(hk.Module):
    """Both towers as a Haiku module; its methods share the tables."""

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
        """The vectors of viewers and posts, and the log temperature."""
        return self.embed_users(history), self.embed_posts(posts), self.log_temperature()

    def log_temperature(self) -> Float[Array, ""]:
        """The logarithm of the learned softmax temperature."""
        return hk.get_parameter("log_temperature", [], init=hk.initializers.Constant(np.log(_TEMPERATURE)))

    def embed_posts(self, posts: PostRows) -> Float[Array, "n E"]:
        """The candidate tower: unit vectors."""
        author, text = unit(self._authors.mean(posts.author)), unit(self._tokens.mean(posts.tokens))
        media = self._video(posts.video) + self._photos(posts.photos)
        hidden = self._post_hidden(jnp.concatenate([author, text, unit(media)], axis=-1))
        learned = unit(self._post_out(jax.nn.silu(hidden)))
        return unit(self._mix(author, text) + self._share("post_network", _NETWORK_SHARE) * learned)

    def embed_users(self, history: HistoryRows) -> Float[Array, "B E"]:
        """The user tower: unit vectors; zeros for a viewer without a history."""
        content = self._content_of(history.author, history.tokens)
        engaged = unit(jnp.sum(content * self._weights(history)[..., None], axis=-2))
        learned = unit(self._read(history, content))
        return unit(engaged + self._share("user_network", _NETWORK_SHARE) * learned)

    def _content_of(self, author: Int[Array, "*n K"], tokens: Int[Array, "*n T"]) -> Float[Array, "*n E"]:
        return unit(self._mix(unit(self._authors.mean(author)), unit(self._tokens.mean(tokens))))

    def _mix(self, author: Float[Array, "*n E"], text: Float[Array, "*n E"]) -> Float[Array, "*n E"]:
        return self._share("author", _AUTHOR_SHARE) * author + self._share("text", 1.0) * text

    def _weights(self, history: HistoryRows) -> Float[Array, "B H"]:
        """The weight of each history position: positive attracts, negative repels."""
        first = hk.initializers.Constant(np.where(IS_NEGATIVE, -1.0, 1.0))
        of_action = hk.get_parameter("action_weights", [ACTION_COUNT], init=first)
        weights = history.actions.astype(jnp.float32) @ of_action + self._share("passed_over", _PASSED_OVER)
        return jnp.where(history.mask, weights, 0.0)

    def _read(self, history: HistoryRows, content: Float[Array, "B H E"]) -> Float[Array, "B E"]:
        """The mean of the transformer's outputs over the history."""
        positions = np.arange(history.mask.shape[1]) - history.mask.shape[1] + 1
        tokens = (
            self._content(content)
            + self._actions(signed_actions(history.actions, history.recorded))
            + self._dwell(history.dwell)
            + self._age(history.age)
            + self._surface(history.surface)
        )
        hidden, _ = self._transformer.encode(tokens, positions, history.mask)
        read: Array = self._user_out(masked_mean(hidden, history.mask))
        return read

    def _share(self, name: str, first: float) -> Float[Array, ""]:
        return hk.get_parameter(f"{name}_share", [], init=hk.initializers.Constant(first))
