"""The ranker: the probability of each action, and the dwell time, of a viewer on each candidate.

Shapes: see `phoenix.features.inputs`; E is the width of the hashed tables. In addition:

    S: positions of the prefix, 1 + H: the viewer, then the history

From top to bottom: embeddings of ids, text, actions, counts and the other features are summed into one token for the
viewer, each history position and each candidate. In the transformer, candidates attend to the viewer and the history,
never to each other (candidate isolation, as in the published Phoenix, `recsys_model.py` and `grok.py`). A linear head
reads the logits of all actions off each candidate, and adds them to those of the prior (`phoenix.models.prior`). The
head starts at zero: an untrained ranker is the prior, and the transformer learns its residual.
"""

from typing import Final, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from phoenix.features.actions import ACTION_COUNT, DWELL_TIME, MAX_DWELL_MS
from phoenix.features.inputs import (
    HOURS,
    LOG_BUCKETS,
    PHOTO_BUCKETS,
    SURFACES,
    VIDEO_BUCKETS,
    WATCHED_BUCKETS,
    WEEKDAYS,
    CandidateRows,
    HistoryRows,
)
from phoenix.models.configs import ModelConfig
from phoenix.models.layers import HashedId, HashTable, linear, signed_actions
from phoenix.models.prior import CandidateFeatures, Prior, ViewerFeatures
from phoenix.models.transformer import Prefix, Transformer
from thunder_ingest.counts.columns import COUNT_COLUMNS

_NEW_INPUT: Final = 0.1
"""Initial deviation of inputs that tell little before training."""


class _Scales(NamedTuple):
    """The initial sizes of the parts of a token."""

    ids: float  # standard deviation of the rows of ids and words
    text: float  # gain of the projection of mean word embeddings, which are short
    actions: float  # gain of the projection of actions
    rest: float  # deviation or gain for ages, dwell times, media, surfaces and counts


_EVEN: Final = _Scales(ids=0.1, text=2.0, actions=1.0, rest=1.0)
_CONTENT_FIRST: Final = _Scales(ids=0.3, text=4.0, actions=0.3, rest=0.1)
"""For `likeness_first`: tokens with the same author and similar words start close to each other."""


class Viewers(NamedTuple):
    """Encoded viewers: everything that candidates are scored against."""

    prefix: Prefix
    features: ViewerFeatures


class Embedded(NamedTuple):
    """Embedded candidates: everything of them that depends on no viewer."""

    tokens: Float[Array, "B C D"]
    features: CandidateFeatures


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
        self._watched = HashTable(WATCHED_BUCKETS, config.dim, name="watched", deviation=_NEW_INPUT)
        self._history_video = HashTable(VIDEO_BUCKETS, config.dim, name="history_video", deviation=_NEW_INPUT)
        self._hour = HashTable(HOURS, config.dim, name="hour", deviation=_NEW_INPUT)
        self._weekday = HashTable(WEEKDAYS, config.dim, name="weekday", deviation=_NEW_INPUT)
        self._counts = linear(config.dim, COUNT_COLUMNS + ACTION_COUNT, name="counts", gain=scales.rest)
        self._transformer = Transformer(config)
        self._head = hk.Linear(ACTION_COUNT, w_init=jnp.zeros, name="head")
        self._prior = Prior(name="prior")

    def __call__(self, history: HistoryRows, candidates: CandidateRows) -> Float[Array, "B C A"]:
        """Logits in one pass, for training; `encode`, `embed` and `score` compute the same predictions, for serving."""
        read, texts = self._texts(history.tokens), self._texts(candidates.tokens)
        prefix, positions, mask = self._prefix_tokens(history, read)
        learned = self._head(self._transformer(prefix, positions, mask, self._candidate_tokens(candidates, texts)))
        return learned + self._prior(
            self._prior.viewer_features(history, read), self._prior.candidate_features(candidates, texts)
        )

    def encode(self, history: HistoryRows) -> Viewers:
        """Everything of viewers that candidates are scored against: once for each, for any number of candidates."""
        read = self._texts(history.tokens)
        prefix = self._transformer.encode(*self._prefix_tokens(history, read))[1]
        return Viewers(prefix, self._prior.viewer_features(history, read))

    def embed(self, candidates: CandidateRows) -> Embedded:
        """Everything of the candidates that depends on no viewer."""
        texts = self._texts(candidates.tokens)
        return Embedded(self._candidate_tokens(candidates, texts), self._prior.candidate_features(candidates, texts))

    def score(self, viewers: Viewers, candidates: Embedded) -> Float[Array, "B C A"]:
        """Predictions for embedded candidates: 18 probabilities, then the dwell time in ms."""
        learned = self._head(self._transformer.attend(candidates.tokens, viewers.prefix))
        return predictions(learned + self._prior(viewers.features, candidates.features))

    def _texts(self, tokens: Int[Array, "*n T"] | Float[Array, "*n E"]) -> Float[Array, "*n E"]:
        """The mean embeddings of texts, from rows (integers), or as they are (floats)."""
        return tokens if jnp.issubdtype(tokens.dtype, jnp.floating) else self._tokens.mean(tokens)

    def _prefix_tokens(
        self, history: HistoryRows, texts: Float[Array, "B H E"]
    ) -> tuple[Float[Array, "B S D"], Int[np.ndarray, " S"], Bool[Array, "B S"]]:
        """The tokens of the viewer and the history, their positions, and the mask of the present ones."""
        viewer = self._users(history.user)[:, None]
        positions = np.arange(history.mask.shape[1]) - history.mask.shape[1] + 1
        return (
            jnp.concatenate([viewer, self._history_tokens(history, texts)], axis=1),
            np.concatenate([[-self._config.history], positions]),
            jnp.pad(history.mask, [(0, 0), (1, 0)], constant_values=True),
        )

    def _history_tokens(self, history: HistoryRows, texts: Float[Array, "B H E"]) -> Float[Array, "B H D"]:
        return (
            self._posts(history.post)
            + self._authors(history.author)
            + self._text(texts)
            + self._actions(signed_actions(history.actions, history.recorded))
            + self._dwell(history.dwell)
            + self._age(history.age)
            + self._surface(history.surface)
            + self._history_video(history.video)
            + self._watched(history.watched)
        )

    def _candidate_tokens(self, candidates: CandidateRows, texts: Float[Array, "B C E"]) -> Float[Array, "B C D"]:
        return (
            self._posts(candidates.post)
            + self._authors(candidates.author)
            + self._text(texts)
            + self._post_age(candidates.age)
            + self._video(candidates.video)
            + self._photos(candidates.photos)
            + self._counts(log_counts(candidates.totals))
            + self._surface(candidates.surface)[:, None]
            + self._hour(candidates.hour)
            + self._weekday(candidates.weekday)
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
