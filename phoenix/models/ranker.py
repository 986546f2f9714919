"""The ranker: the probability of each action, and the dwell time, of a viewer on each candidate.

Shapes: see `phoenix.features.inputs`; E is the width of the hashed tables. In addition:

    S: positions of the prefix, 1 + H: the viewer, then the history

From top to bottom: embeddings of ids, text, actions, counts and the other features are summed into one token for the
viewer, each history position and each candidate. In the transformer, candidates attend to the viewer and the history,
never to each other (candidate isolation, as in the published Phoenix, `recsys_model.py` and `grok.py`). A linear head
reads the logits of all actions off each candidate. No input measures how well a candidate suits a viewer: attention
learns that.

An untrained ranker predicts plausible base rates: the bias of the head is their log-odds, and its weights are small.
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
    VIDEO_BUCKETS,
    CandidateRows,
    HistoryRows,
)
from phoenix.models.configs import ModelConfig
from phoenix.models.initialisers import Uniform
from phoenix.models.layers import HashedId, HashTable, linear, signed_actions
from phoenix.models.transformer import Prefix, Transformer
from thunder_ingest.counts.columns import COUNT_COLUMNS

_HEAD_GAIN: Final = 0.3
"""The typical distance, in logits, of an untrained prediction from its base rate."""


class _Scales(NamedTuple):
    """The initial sizes of the parts of a token."""

    ids: float  # standard deviation of the rows of ids and words
    text: float  # gain of the projection of mean word embeddings, which are short
    actions: float  # gain of the projection of actions
    rest: float  # deviation or gain for ages, dwell times, media, surfaces and counts


_EVEN: Final = _Scales(ids=0.1, text=2.0, actions=1.0, rest=1.0)
_CONTENT_FIRST: Final = _Scales(ids=0.3, text=4.0, actions=0.3, rest=0.1)
"""For `likeness_first`: tokens with the same author and similar words start close to each other."""


class Ranker(hk.Module):
    """The ranker as a Haiku module; its methods share all parameters."""

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
        self._counts = linear(config.dim, COUNT_COLUMNS + ACTION_COUNT, name="counts", gain=scales.rest)
        self._transformer = Transformer(config)
        self._head = hk.Linear(ACTION_COUNT, w_init=Uniform(_HEAD_GAIN * config.dim**-0.5), b_init=_base, name="head")

    def __call__(self, history: HistoryRows, candidates: CandidateRows) -> Float[Array, "B C A"]:
        """Logits in one pass, for training; `encode`, `embed` and `score` compute the same predictions, for serving."""
        prefix, positions, mask = self._prefix_tokens(history)
        return self._head(self._transformer(prefix, positions, mask, self._candidate_tokens(candidates)))

    def encode(self, history: HistoryRows) -> Prefix:
        """The keys and values that candidates attend to: once for each viewer, for any number of candidates."""
        return self._transformer.encode(*self._prefix_tokens(history))[1]

    def embed(self, candidates: CandidateRows) -> Float[Array, "B C D"]:
        """The candidates' tokens, which depend on no viewer."""
        return self._candidate_tokens(candidates)

    def score(self, prefix: Prefix, candidates: Float[Array, "B C D"]) -> Float[Array, "B C A"]:
        """Predictions for embedded candidates: 18 probabilities, then the dwell time in ms."""
        return predictions(self._head(self._transformer.attend(candidates, prefix)))

    def _content(self, tokens: Int[Array, "*n T"] | Float[Array, "*n E"]) -> Float[Array, "*n D"]:
        """The texts' part of tokens, from rows (integers) or from mean embeddings (floats)."""
        return self._text(tokens if jnp.issubdtype(tokens.dtype, jnp.floating) else self._tokens.mean(tokens))

    def _prefix_tokens(
        self, history: HistoryRows
    ) -> tuple[Float[Array, "B S D"], Int[np.ndarray, " S"], Bool[Array, "B S"]]:
        """The tokens of the viewer and the history, their positions, and the mask of the present ones."""
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
            + self._actions(signed_actions(history.actions, history.recorded))
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


def word_table(params: hk.Params) -> Float[Array, "R E"]:
    """The table of words in a ranker's parameters."""
    return params["ranker/~/tokens"]["rows"]


def log_counts(totals: Int[Array, "*n A+1"]) -> Float[Array, "*n A+A+1"]:
    """The log2 of all counts, then the log2 of each action's rate per impression, all scaled to about 1.

    The published system (`recsys_feature_prep.py`) feeds the continuous log2 of counts through an MLP. Here a linear
    layer reads them. A linear layer could learn the rates from the counts, because each is a difference of two logs.
    But counts are strongly correlated, so it would learn these small differences slowly.
    """
    counts = jnp.asarray(totals, jnp.float32)
    counts = counts.at[..., DWELL_TIME].divide(1_000.0)  # seconds
    doublings = jnp.log2(1.0 + counts)
    per_impression = jnp.log2(0.5 + counts[..., :-1]) - jnp.log2(2.0 + counts[..., -1:])
    return jnp.concatenate([0.3 * (doublings - 4.0), 0.5 * (per_impression + 2.0)], axis=-1)


def predictions(logits: Float[Array, "B C A"]) -> Float[Array, "B C A"]:
    """Predictions from logits: 18 probabilities, then the dwell time in ms, at most MAX_DWELL_MS."""
    probabilities = jax.nn.sigmoid(logits)
    return jnp.concatenate([probabilities[..., :-1], probabilities[..., -1:] * MAX_DWELL_MS], axis=-1)


def _base(shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    """The initial bias of the head: the log-odds of the base rates."""
    rates = np.append(BASE_RATES, np.float32(BASE_DWELL_MS / MAX_DWELL_MS))
    return jnp.asarray(log_odds(rates), dtype).reshape(shape)
