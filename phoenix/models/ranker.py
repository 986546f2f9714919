"""The ranker: the probability of each action, and the dwell time, if this viewer is shown this post.

Glossary of shapes:

    B: viewers of a batch
    H: history positions, newest last, older ones to the left
    S: positions of the prefix, 1 + H: the viewer, then the history
    C: candidates of each viewer
    T: text tokens of a post
    E: width of the tables
    K: hashed rows of an id
    D: width of the model
    A: the 19 actions

From top to bottom: ids, text, actions, counts and the rest are looked up and summed into one token per viewer, history
position and candidate; the transformer lets candidates look at the viewer and the history, never at each other; a
linear head reads the actions off each candidate. No feature says how well a candidate suits a viewer: attention is to
find that.

Untrained, it predicts plausible base rates: the head's bias is their log-odds, and its weights are small.
"""

from typing import Final, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from phoenix.features.actions import ACTION_COUNT, BASE_DWELL_MS, BASE_RATES, DWELL_TIME, MAX_DWELL_MS, log_odds
from phoenix.features.inputs import (
    LOG_BUCKETS,
    PHOTO_BUCKETS,
    SURFACES,
    TOTALS,
    VIDEO_BUCKETS,
    CandidateRows,
    HistoryRows,
)
from phoenix.models.configs import ModelConfig
from phoenix.models.initialisers import Uniform
from phoenix.models.layers import HashedId, HashTable, linear, signed_actions
from phoenix.models.transformer import Prefix, Transformer

_HEAD_GAIN: Final = 0.3
"""An untrained prediction lies within about this many logits of its base rate."""


class _Scales(NamedTuple):
    """How large the parts of a token are at first."""

    ids: float  # deviation of the rows of ids and words
    text: float  # gain of the projection of a mean of words, which is short
    actions: float  # gain of the projection of actions
    rest: float  # of ages, dwell times, media, surfaces and counts


_EVEN: Final = _Scales(ids=0.1, text=2.0, actions=1.0, rest=1.0)
_CONTENT_FIRST: Final = _Scales(ids=0.3, text=4.0, actions=0.3, rest=0.1)
"""So that two tokens are alike where author and words are, which is what attention is to find out about."""


class Ranker(hk.Module):
    """Scores candidates; the methods share all parameters."""

    def __init__(self, config: ModelConfig, name: str = "ranker") -> None:
        super().__init__(name)
        self._config = config
        scales = _CONTENT_FIRST if config.likeness_first else _EVEN
        self._users = HashedId(config.user_rows, config.table_dim, config.dim, name="users", deviation=scales.ids)
        self._posts = HashedId(config.post_rows, config.table_dim, config.dim, name="posts", deviation=scales.ids)
        self._authors = HashedId(config.author_rows, config.table_dim, config.dim, name="authors", deviation=scales.ids)
        self._tokens = HashTable(config.token_rows, config.table_dim, name="tokens", deviation=scales.ids)
        self._text = linear(config.dim, config.table_dim, name="text", gain=scales.text)
        self._actions = linear(config.dim, ACTION_COUNT, name="actions", gain=scales.actions)
        self._dwell = HashTable(LOG_BUCKETS, config.dim, name="dwell", deviation=scales.rest)
        self._age = HashTable(LOG_BUCKETS, config.dim, name="age", deviation=scales.rest)
        self._post_age = HashTable(LOG_BUCKETS, config.dim, name="post_age", deviation=scales.rest)
        self._video = HashTable(VIDEO_BUCKETS, config.dim, name="video", deviation=scales.rest)
        self._photos = HashTable(PHOTO_BUCKETS, config.dim, name="photos", deviation=scales.rest)
        self._surface = HashTable(SURFACES, config.dim, name="surface", deviation=scales.rest)
        self._counts = linear(config.dim, TOTALS + ACTION_COUNT, name="counts", gain=scales.rest)
        self._transformer = Transformer(config)
        self._head = hk.Linear(ACTION_COUNT, w_init=Uniform(_HEAD_GAIN * config.dim**-0.5), b_init=_base, name="head")

    def __call__(self, history: HistoryRows, candidates: CandidateRows) -> Float[Array, "B C A"]:
        """Logits in one pass, as training wants them. `encode` and `score` come to the same, as predictions."""
        prefix, positions, mask = self._prefix_tokens(history)
        return self._head(self._transformer(prefix, positions, mask, self._candidate_tokens(candidates)))

    def encode(self, history: HistoryRows) -> Prefix:
        """What candidates attend to, once for a viewer however many candidates there are."""
        return self._transformer.encode(*self._prefix_tokens(history))[1]

    def embed(self, candidates: CandidateRows) -> Float[Array, "B C D"]:
        """The candidates' tokens, which know nothing of a viewer yet."""
        return self._candidate_tokens(candidates)

    def score(self, prefix: Prefix, candidates: Float[Array, "B C D"]) -> Float[Array, "B C A"]:
        """Predictions for candidates that have been embedded: 18 probabilities, then the dwell time in ms."""
        return predictions(self._head(self._transformer.attend(candidates, prefix)))

    def _content(self, tokens: Int[Array, "*n T"] | Float[Array, "*n E"]) -> Float[Array, "*n D"]:
        """Texts, of which either the rows or their mean is given, as parts of a position's token."""
        return self._text(tokens if jnp.issubdtype(tokens.dtype, jnp.floating) else self._tokens.mean(tokens))

    def _prefix_tokens(
        self, history: HistoryRows
    ) -> tuple[Float[Array, "B S D"], Int[np.ndarray, " S"], Bool[Array, "B S"]]:
        """The tokens of the viewer and the history, their positions and which of them there are."""
        viewer = self._users(history.user)[:, None]
        positions = np.arange(history.mask.shape[1]) - history.mask.shape[1] + 1
        return (
            jnp.concatenate([viewer, self._history_tokens(history)], axis=1),
            np.concatenate([[-self._config.history], positions]),
            jnp.pad(history.mask, [(0, 0), (1, 0)], constant_values=True),
        )

    def _history_tokens(self, history: HistoryRows) -> Float[Array, "B H D"]:
        return (
            self._posts(history.post)
            + self._authors(history.author)
            + self._content(history.tokens)
            + self._actions(signed_actions(history.actions))
            + self._dwell(history.dwell)
            + self._age(history.age)
            + self._surface(history.surface)
        )

    def _candidate_tokens(self, candidates: CandidateRows) -> Float[Array, "B C D"]:
        return (
            self._posts(candidates.post)
            + self._authors(candidates.author)
            + self._content(candidates.tokens)
            + self._post_age(candidates.age)
            + self._video(candidates.video)
            + self._photos(candidates.photos)
            + self._counts(log_counts(candidates.totals))
            + self._surface(candidates.surface)[:, None]
        )


def word_table(params: hk.Params) -> Float[Array, "rows E"]:
    """Of a ranker's parameters the table of words."""
    return params["ranker/~/tokens"]["rows"]


def log_counts(totals: Int[Array, "*n 20"]) -> Float[Array, "*n 39"]:
    """Totals in doublings, and those of the actions less that of the impressions, all of them scaled to about 1.

    The published system looks up a vector for each doubling, which cannot tell rates that differ by less. The
    differences say nothing new to a linear layer; but counts go up and down together, and it would be long in learning
    what little they do not have in common.
    """
    counts = jnp.asarray(totals, jnp.float32)
    counts = counts.at[..., DWELL_TIME].divide(1_000.0)  # seconds
    doublings = jnp.log2(1.0 + counts)
    per_impression = jnp.log2(0.5 + counts[..., :-1]) - jnp.log2(2.0 + counts[..., -1:])
    return jnp.concatenate([0.3 * (doublings - 4.0), 0.5 * (per_impression + 2.0)], axis=-1)


def predictions(logits: Float[Array, "B C A"]) -> Float[Array, "B C A"]:
    """Logits as what they stand for: 18 probabilities, then the dwell time in ms, up to MAX_DWELL_MS."""
    probabilities = jax.nn.sigmoid(logits)
    return jnp.concatenate([probabilities[..., :-1], probabilities[..., -1:] * MAX_DWELL_MS], axis=-1)


def _base(shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """The head's first bias: with it alone the base rates are predicted."""
    rates = np.append(BASE_RATES, np.float32(BASE_DWELL_MS / MAX_DWELL_MS))
    return jnp.asarray(log_odds(rates), dtype).reshape(shape)
